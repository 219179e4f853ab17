/* How the numbers of a cache page are stored, and the way from plain to quantised pages and back.
 *
 * A page holds ML_PAGE_TOKENS tokens of one layer. Each KV head has a side of keys and a side of values, of 16 bits
 * (plain: bf16, or f32 in a cache of that), 8 or 4 bits; heads and sides may differ. A page of any format is: unless
 * all sides are plain, the units, f32 {2, kv_heads} (of keys, then of values) filled up to 64 bytes; the key sides by
 * head; the value sides by head. Sides begin at multiples of 64 bytes and are
 *
 *   plain keys {head_dim, 64 tokens}, plain values {64 tokens, head_dim}
 *   quantised: f16 steps {64}, f16 zeros {64}, of keys with 4 bits int16 means {head_dim}, then the codes, where four
 *   bytes along the dimension that a product reduces lie together:
 *     8 bits  keys {head_dim/4, 64 tokens, 4}, values {64/4, head_dim, 4 tokens}
 *     4 bits  keys {head_dim/8, 64 tokens, 4}, values {64/8, head_dim, 4 tokens}: of byte b of group g the low nibble
 *             is element 8g + b, the high one 8g + 4 + b
 *
 * An element of token t is unit (zero[t] + step[t] (code - middle) + mean), middle 128 or 8. The unit is a power of two
 * such that the f16 numbers hold any finite page, however large or small its numbers are. Keys are rotated along
 * head_dim before they are quantised (ml_rotate), unless the format says not to: outliers spread over all elements. The
 * mean of each dimension over the page's tokens is taken out of keys of 4 bits, because keys share a large part that
 * would cost most of the codes (KIVI, arXiv:2402.02750, sees it as outlier channels; it quantises by channel instead).
 */
#ifndef ML_KV_FORMAT_H
#define ML_KV_FORMAT_H

#include "kernels/kernels.h"

#include <stddef.h>

typedef struct ml_side {
    int bits;       /* 16 (plain), 8 or 4 */
    int64_t offset; /* in the page */
} ml_side;

typedef struct ml_format {
    int dtype; /* of plain sides: ML_BF16 or ML_F32 */
    int32_t kv_heads, head_dim;
    int rotated;     /* quantised keys are */
    int plain;       /* all sides are plain: there are no units */
    int64_t bytes;   /* of a page */
    ml_side sides[]; /* {2, kv_heads}: keys, then values */
} ml_format;

/* Bytes of an ml_format. */
size_t ml_format_size(int32_t kv_heads);
/* Fills `format`, which has room for ml_format_size(kv_heads) bytes. key_bits and value_bits {kv_heads} are 16, 8 or 4
 * each (NULL: all 16), head_dim a multiple of 8 up to ML_MAX_HEAD_DIM. */
void ml_format_lay_out(ml_format *format, int dtype, int32_t kv_heads, int32_t head_dim, int rotated,
                       const uint8_t *key_bits, const uint8_t *value_bits);
/* 1 if pages of the two are laid out alike. */
int ml_format_same(const ml_format *a, const ml_format *b);

/* Bytes of a number in a page, for kv/bytes/packed.h: codes are bytes. */
static inline size_t ml_format_element(const ml_format *format) {
    return !format->plain ? 1 : format->dtype == ML_F32 ? 4 : 2;
}

/* Where the keys (values = 0) or values (1) of a KV head lie in a page. */
static inline const uint8_t *ml_page_side(const ml_format *format, const uint8_t *page, int32_t head, int values) {
    return page + format->sides[values * format->kv_heads + head].offset;
}
/* Puts KV head `head` of a page into what the attend kernel reads: keys, values, dtype, bits and units. */
void ml_page_show(const ml_format *format, const uint8_t *page, int32_t head, ml_attend *work);

/* Writes the full page `from` as a page of format `to`, which has the same dtype, heads and head_dim: a side of other
 * bits is decoded and quantised anew. Of the first `frozen` tokens the codes are taken from `before`, the page of
 * format `to` that they were decoded from (frozen = 0: NULL): so a token is quantised once, however often its page
 * becomes plain and comes back (unless the new tokens are far larger: then all are quantised anew). Returns 0, and
 * `out` is worth nothing, if a number to be quantised is infinite or NaN: no code stands for that. Takes 64 KiB of
 * stack. */
int ml_page_convert(const ml_format *format, const uint8_t *from, const ml_format *to, uint8_t *out,
                    const uint8_t *before, int64_t frozen);

/* Turns a vector of `n` elements by the orthogonal and symmetric matrix D H D: H the Walsh-Hadamard matrix in blocks of
 * the largest power of two that divides n, over its root. It is its own inverse. */
void ml_rotate(float *x, int64_t n);

#endif
