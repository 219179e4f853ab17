#include "dtype/dtype.h"

#include "dtype/blocks.h"

/* What the table says of each dtype: the number is the index. */
typedef struct dtype_facts {
    const char *name;
    int block; /* elements of a block */
    int bytes; /* bytes of a block */
} dtype_facts;

static const dtype_facts facts[ML_DTYPE_LIMIT] = {
    [ML_F32] = {"f32", 1, 4},
    [ML_F16] = {"f16", 1, 2},
    [ML_Q4_0] = {"q4_0", 32, sizeof(ml_block_q4_0)},
    [ML_Q4_1] = {"q4_1", 32, sizeof(ml_block_q4_1)},
    [ML_Q5_0] = {"q5_0", 32, sizeof(ml_block_q5_0)},
    [ML_Q5_1] = {"q5_1", 32, sizeof(ml_block_q5_1)},
    [ML_Q8_0] = {"q8_0", 32, sizeof(ml_block_q8_0)},
    [ML_Q2_K] = {"q2_k", 256, sizeof(ml_block_q2_k)},
    [ML_Q3_K] = {"q3_k", 256, sizeof(ml_block_q3_k)},
    [ML_Q4_K] = {"q4_k", 256, sizeof(ml_block_q4_k)},
    [ML_Q5_K] = {"q5_k", 256, sizeof(ml_block_q5_k)},
    [ML_Q6_K] = {"q6_k", 256, sizeof(ml_block_q6_k)},
    [ML_IQ4_NL] = {"iq4_nl", 32, sizeof(ml_block_iq4_nl)},
    [ML_IQ4_XS] = {"iq4_xs", 256, sizeof(ml_block_iq4_xs)},
    [ML_I8] = {"i8", 1, 1},
    [ML_I16] = {"i16", 1, 2},
    [ML_I32] = {"i32", 1, 4},
    [ML_I64] = {"i64", 1, 8},
    [ML_F64] = {"f64", 1, 8},
    [ML_BF16] = {"bf16", 1, 2},
    [ML_MXFP4] = {"mxfp4", 32, sizeof(ml_block_mxfp4)},
};

static const dtype_facts *find(int dtype) {
    return dtype >= 0 && dtype < ML_DTYPE_LIMIT && facts[dtype].name ? &facts[dtype] : NULL;
}

const char *ml_dtype_name(int dtype) {
    const dtype_facts *f = find(dtype);
    return f ? f->name : NULL;
}

int ml_dtype_from_name(const char *name) {
    for (int i = 0; name && i < ML_DTYPE_LIMIT; i++) {
        if (facts[i].name && strcmp(facts[i].name, name) == 0) return i;
    }
    return -1;
}

int64_t ml_dtype_block(int dtype) {
    const dtype_facts *f = find(dtype);
    return f ? f->block : 0;
}

int64_t ml_dtype_bytes(int dtype) {
    const dtype_facts *f = find(dtype);
    return f ? f->bytes : 0;
}

int64_t ml_row_bytes(int dtype, int64_t elements) {
    const dtype_facts *f = find(dtype);
    int64_t bytes;
    if (!f || elements < 0 || elements % f->block != 0) return -1;
    return __builtin_mul_overflow(elements / f->block, (int64_t)f->bytes, &bytes) ? -1 : bytes;
}
