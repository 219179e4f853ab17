/* Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama's block with biases on queries, keys and values; RoPE turns halves. */
#include "model/arch.h"

static const ml_arch_tensor tensors[] = {
    {"attn_norm.weight", ML_VECTOR, offsetof(ml_layer, attn_norm), {ML_WIDTH}, 0},
    {"attn_q.weight", ML_MATRIX, offsetof(ml_layer, attn_q), {ML_QUERIES, ML_WIDTH}, 0},
    {"attn_k.weight", ML_MATRIX, offsetof(ml_layer, attn_k), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_v.weight", ML_MATRIX, offsetof(ml_layer, attn_v), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_q.bias", ML_VECTOR, offsetof(ml_layer, q_bias), {ML_QUERIES}, 0},
    {"attn_k.bias", ML_VECTOR, offsetof(ml_layer, k_bias), {ML_KEYS}, 0},
    {"attn_v.bias", ML_VECTOR, offsetof(ml_layer, v_bias), {ML_KEYS}, 0},
    {"attn_output.weight", ML_MATRIX, offsetof(ml_layer, attn_output), {ML_WIDTH, ML_QUERIES}, 0},
    {"ffn_norm.weight", ML_VECTOR, offsetof(ml_layer, ffn_norm), {ML_WIDTH}, 0},
    {"ffn_gate.weight", ML_MATRIX, offsetof(ml_layer, gate), {ML_FFN, ML_WIDTH}, 0},
    {"ffn_up.weight", ML_MATRIX, offsetof(ml_layer, up), {ML_FFN, ML_WIDTH}, 0},
    {"ffn_down.weight", ML_MATRIX, offsetof(ml_layer, down), {ML_WIDTH, ML_FFN}, 0},
    {0},
};

static void read_sizes(ml_keys *keys, ml_config *config) {
    config->ffn_width = ml_keys_int(keys, "feed_forward_length", 1, 1 << 22, -1);
}

const ml_arch ml_arch_qwen2 = {
    .name = "qwen2", .tensors = tensors, .read = read_sizes, .tied_head = 1, .rope_halves = 1};
