/* Llama 1 to 3 (arXiv:2302.13971), and whatever is built like it: Mistral, TinyLlama, SmolLM ... Dense; RoPE turns
 * neighbouring elements. Models built like it may have biases. */
#include "base/error.h"
#include "model/arch.h"

static const ml_arch_tensor tensors[] = {
    {"attn_norm.weight", ML_VECTOR, offsetof(ml_layer, attn_norm), {ML_WIDTH}, 0},
    {"attn_q.weight", ML_MATRIX, offsetof(ml_layer, attn_q), {ML_QUERIES, ML_WIDTH}, 0},
    {"attn_k.weight", ML_MATRIX, offsetof(ml_layer, attn_k), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_v.weight", ML_MATRIX, offsetof(ml_layer, attn_v), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_output.weight", ML_MATRIX, offsetof(ml_layer, attn_output), {ML_WIDTH, ML_QUERIES}, 0},
    {"attn_q.bias", ML_VECTOR, offsetof(ml_layer, q_bias), {ML_QUERIES}, 1},
    {"attn_k.bias", ML_VECTOR, offsetof(ml_layer, k_bias), {ML_KEYS}, 1},
    {"attn_v.bias", ML_VECTOR, offsetof(ml_layer, v_bias), {ML_KEYS}, 1},
    {"attn_output.bias", ML_VECTOR, offsetof(ml_layer, output_bias), {ML_WIDTH}, 1},
    {"ffn_norm.weight", ML_VECTOR, offsetof(ml_layer, ffn_norm), {ML_WIDTH}, 0},
    {"ffn_gate.weight", ML_MATRIX, offsetof(ml_layer, gate), {ML_FFN, ML_WIDTH}, 0},
    {"ffn_up.weight", ML_MATRIX, offsetof(ml_layer, up), {ML_FFN, ML_WIDTH}, 0},
    {"ffn_down.weight", ML_MATRIX, offsetof(ml_layer, down), {ML_WIDTH, ML_FFN}, 0},
    {"ffn_gate.bias", ML_VECTOR, offsetof(ml_layer, gate_bias), {ML_FFN}, 1},
    {"ffn_up.bias", ML_VECTOR, offsetof(ml_layer, up_bias), {ML_FFN}, 1},
    {"ffn_down.bias", ML_VECTOR, offsetof(ml_layer, down_bias), {ML_WIDTH}, 1},
    {0},
};

static void read_sizes(ml_keys *keys, ml_config *config) {
    const int32_t experts = ml_keys_int(keys, "expert_count", 0, INT32_MAX, 0);
    if (experts > 0) { /* Mixtral calls itself llama, too */
        keys->status = ml_error(ML_E_UNSUPPORTED, "%s: a llama model with %d experts is not one moonloom runs",
                                ml_weights_path(keys->weights), experts);
    }
    config->ffn_width = ml_keys_int(keys, "feed_forward_length", 1, 1 << 22, -1);
}

const ml_arch ml_arch_llama = {.name = "llama", .tensors = tensors, .read = read_sizes, .tied_head = 1};
