/* A saved session that is open: its parts, and what of them is damaged. */
#ifndef ML_KV_FILE_SAVED_H
#define ML_KV_FILE_SAVED_H

#include "base/mapping.h"
#include "kv/file/policy.h"

struct ml_saved {
    char *path;
    ml_mapping file;
    ml_saved_header header;
    int64_t text_at, policy_at, pages_at, index_at; /* in the file; the ids are at ML_SAVED_HEADER */
    int text_whole;
    ml_saved_policy_part policy;
    ml_saved_entry *entries; /* {page_count}; worth nothing where the index is damaged */
    int64_t *offsets;        /* {page_count}: of each page in the file */
    char damage[400];        /* a sentence, or "" */
};

/* Remembers the first thing that is wrong. */
void __attribute__((format(printf, 2, 3))) ml_saved_damaged(ml_saved *saved, const char *format, ...);

#endif
