/* Qwen3 (arXiv:2505.09388), the dense ones: Llama's block with an RMSNorm over each head of queries and keys before
 * RoPE, which turns halves. Heads have a size of their own: H h need not be D. */
#include "model/arch.h"

static const ml_arch_tensor tensors[] = {
    {"attn_norm.weight", ML_VECTOR, offsetof(ml_layer, attn_norm), {ML_WIDTH}, 0},
    {"attn_q.weight", ML_MATRIX, offsetof(ml_layer, attn_q), {ML_QUERIES, ML_WIDTH}, 0},
    {"attn_k.weight", ML_MATRIX, offsetof(ml_layer, attn_k), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_v.weight", ML_MATRIX, offsetof(ml_layer, attn_v), {ML_KEYS, ML_WIDTH}, 0},
    {"attn_q_norm.weight", ML_VECTOR, offsetof(ml_layer, q_norm), {ML_HEAD_DIM}, 0},
    {"attn_k_norm.weight", ML_VECTOR, offsetof(ml_layer, k_norm), {ML_HEAD_DIM}, 0},
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

const ml_arch ml_arch_qwen3 = {
    .name = "qwen3", .tensors = tensors, .read = read_sizes, .tied_head = 1, .rope_halves = 1};
