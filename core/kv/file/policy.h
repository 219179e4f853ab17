/* The policy part of a saved session. */
#ifndef ML_KV_FILE_POLICY_H
#define ML_KV_FILE_POLICY_H

#include "kv/file/header.h"

/* What the policy part says. Format 0 is plain. */
typedef struct ml_saved_policy_part {
    int set; /* there was a policy */
    int64_t hot_tokens, first_tokens;
    int rotated;
    uint32_t format_count;
    const uint8_t *goals;   /* {layers} of 4 bytes: the format that full pages become */
    const uint8_t *formats; /* {format_count, 2, kv_heads}: bits of keys, of values */
} ml_saved_policy_part;

/* Reads it. 0 if it is not so, or numbers are out of range. */
int ml_saved_get_policy(const uint8_t *in, const ml_saved_header *header, ml_saved_policy_part *part);
/* Bytes of the part, and the part itself, for these formats; formats[0] is the plain one. */
int64_t ml_saved_policy_bytes(const ml_cache *cache, size_t format_count);
void ml_saved_put_policy(const ml_cache *cache, const ml_format *const *formats, size_t format_count, uint8_t *out);
/* Place of a format among them, or `format_count`. */
size_t ml_saved_format(const ml_format *const *formats, size_t format_count, const ml_format *format);

#endif
