/* The file of a saved session.
 *
 *     header    ML_SAVED_HEADER bytes, see below
 *     ids       4 bytes a token
 *     text      what they stand for, UTF-8 as far as they are
 *     policy    what becomes of pages (ml_policy), and the formats of the pages: kv/file/policy.c
 *     pages     packed (kv/bytes/packed.h), by page and within it by layer. A plain page that was decoded from a
 * quantised one is followed by that: some of its tokens will take their codes from there index     ML_SAVED_ENTRY bytes
 * a page, in that order trailer   the header once more
 *
 * Numbers are little endian. Nothing lies between the parts, and their places follow from the sizes in the header:
 * every byte belongs to a part, and each part has a checksum (ml_hash, seed 0). */
#ifndef ML_KV_FILE_HEADER_H
#define ML_KV_FILE_HEADER_H

#include "base/bytes.h"
#include "base/hash.h"
#include "kv/state.h"

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

#endif
