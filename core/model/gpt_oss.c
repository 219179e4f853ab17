/* gpt-oss (arXiv:2508.10925): a mixture of experts with biases everywhere, a clamped SwiGLU, sinks in every softmax,
 * and a sliding window in every other layer. */
#include "model/arch.h"

static const ml_arch_tensor tensors[] = {
    {"attn_norm.weight", ML_VECTOR, offsetof(ml_layer, attn_norm), {ML_WIDTH}, 0},
    {"attn_q.weight", ML_MATRIX, offsetof(ml_layer, attn_q), {ML_QUERIES, ML_WIDTH}, 0},
    {"attn_k.weight", ML_MATRIX, offsetof(ml_layer, attn_k), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_v.weight", ML_MATRIX, offsetof(ml_layer, attn_v), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_output.weight", ML_MATRIX, offsetof(ml_layer, attn_output), {ML_WIDTH, ML_QUERIES}, 0},
    {"attn_q.bias", ML_VECTOR, offsetof(ml_layer, q_bias), {ML_QUERIES}, 0},
    {"attn_k.bias", ML_VECTOR, offsetof(ml_layer, k_bias), {ML_KEYS}, 0},
    {"attn_v.bias", ML_VECTOR, offsetof(ml_layer, v_bias), {ML_KEYS}, 0},
    {"attn_output.bias", ML_VECTOR, offsetof(ml_layer, output_bias), {ML_WIDTH}, 0},
    {"attn_sinks.weight", ML_VECTOR, offsetof(ml_layer, sinks), {ML_HEADS}, 0},
    {"post_attention_norm.weight", ML_VECTOR, offsetof(ml_layer, ffn_norm), {ML_WIDTH}, 0},
    {"ffn_gate_inp.weight", ML_MATRIX, offsetof(ml_layer, router), {ML_EXPERTS, ML_WIDTH}, 0},
    {"ffn_gate_inp.bias", ML_VECTOR, offsetof(ml_layer, router_bias), {ML_EXPERTS}, 0},
    {"ffn_gate_exps.weight", ML_MATRIX, offsetof(ml_layer, gate), {ML_EXPERTS, ML_FFN, ML_WIDTH}, 0},
    {"ffn_up_exps.weight", ML_MATRIX, offsetof(ml_layer, up), {ML_EXPERTS, ML_FFN, ML_WIDTH}, 0},
    {"ffn_down_exps.weight", ML_MATRIX, offsetof(ml_layer, down), {ML_EXPERTS, ML_WIDTH, ML_FFN}, 0},
    {"ffn_gate_exps.bias", ML_VECTOR, offsetof(ml_layer, gate_bias), {ML_EXPERTS, ML_FFN}, 0},
    {"ffn_up_exps.bias", ML_VECTOR, offsetof(ml_layer, up_bias), {ML_EXPERTS, ML_FFN}, 0},
    {"ffn_down_exps.bias", ML_VECTOR, offsetof(ml_layer, down_bias), {ML_EXPERTS, ML_WIDTH}, 0},
    {0},
};

static void read_sizes(ml_keys *keys, ml_config *config) {
    config->experts = ml_keys_int(keys, "expert_count", 1, 4096, -1);
    config->experts_used = ml_keys_int(keys, "expert_used_count", 1, config->experts, -1);
    config->ffn_width = ml_keys_int(keys, "expert_feed_forward_length", 1, 1 << 22, -1);
    config->window = ml_keys_int(keys, "attention.sliding_window", 1, INT32_MAX, -1);
    config->window_period = 2;
}

/* The last layer of each period sees everything. */
static int64_t window(const ml_config *config, int32_t layer) {
    return layer % config->window_period == config->window_period - 1 ? 0 : config->window;
}

const ml_arch ml_arch_gpt_oss = {.name = "gpt-oss",
                                 .tensors = tensors,
                                 .read = read_sizes,
                                 .window = window,
                                 .rope_halves = 1,
                                 .yarn_fractions = 1,
                                 .clamped_swiglu = 1};
