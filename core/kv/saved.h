/* The file of a saved session.
 *
 *     header    ML_SAVED_HEADER bytes, see below
 *     ids       4 bytes a token
 *     text      what they stand for, UTF-8 as far as they are
 *     policy    what becomes of pages (ml_policy), and the formats of the pages: kv/saved_policy.c
 *     pages     packed (kv/packed.h), by page and within it by layer. A plain page that was decoded from a quantised
 *               one is followed by that: some of its tokens will take their codes from there
 *     index     ML_SAVED_ENTRY bytes a page, in that order
 *     trailer   the header once more
 *
 * Numbers are little endian. Nothing lies between the parts, and their places follow from the sizes in the header:
 * every byte belongs to a part, and each part has a checksum (ml_hash, seed 0). */
#ifndef ML_KV_SAVED_H
#define ML_KV_SAVED_H

#include "base/bytes.h"
#include "base/hash.h"
#include "kv/cache.h"

enum { ML_SAVED_VERSION = 1, ML_SAVED_HEADER = 1024, ML_SAVED_ENTRY = 32 };

typedef struct ml_saved_header {
    ml_saved_info info;
    int32_t kv_heads, head_dim;
    int64_t policy_bytes;
    uint64_t ids_hash, text_hash, policy_hash, index_hash;
} ml_saved_header;

typedef struct ml_saved_entry {
    uint32_t layer, page;
    uint32_t format;        /* among those of the policy */
    uint32_t bytes, packed; /* in memory, in the file */
    uint32_t frozen;        /* > 0: what the page before was decoded from, of which so many tokens are still in it */
    uint64_t hash;          /* of the packed bytes */
} ml_saved_entry;

/* Writes the header as bytes, its checksum last. */
void ml_saved_put_header(const ml_saved_header *header, uint8_t out[ML_SAVED_HEADER]);
/* Reads it. 0 if it is not a header of this version, or damaged. Sizes are as the file claims. */
int ml_saved_get_header(const uint8_t in[ML_SAVED_HEADER], ml_saved_header *header);
/* 1 if the bytes begin as a header of any version does; *version receives which. */
int ml_saved_is_header(const uint8_t *in, uint32_t *version);
void ml_saved_put_entry(const ml_saved_entry *entry, uint8_t out[ML_SAVED_ENTRY]);
void ml_saved_get_entry(const uint8_t in[ML_SAVED_ENTRY], ml_saved_entry *entry);

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
