/* Writing a saved session: see kv/file/header.h for the file. */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "kv/file/policy.h"
#include "kv/sequence.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { GROUP = 64 }; /* pages that are packed together, then written */

typedef struct saving {
    ml_cache *cache;
    const ml_sequence *sequence;
    ml_file file;
    ml_packer **packers; /* {threads} */
    int threads;
    uint8_t *packed;           /* {GROUP, bound} */
    size_t bound;              /* of a packed page */
    const ml_format **formats; /* those of the pages and the policy, the plain one first */
    size_t format_count, format_capacity;
    const ml_page **pages;   /* {count}: of the sequence, and what they were decoded from */
    ml_saved_entry *entries; /* {count} */
    int64_t count, first;    /* all; the first of the group under way */
    atomic_int failed;
    ml_saved_header header;
} saving;

static void pack_pages(void *arg, int64_t begin, int64_t end, int thread) {
    saving *s = arg;
    for (int64_t i = begin; i < end; i++) {
        const ml_page *page = s->pages[s->first + i];
        ml_saved_entry *entry = &s->entries[s->first + i];
        uint8_t *out = s->packed + (size_t)i * s->bound;
        const size_t packed = ml_page_pack(page, s->packers[thread], out);
        if (packed == 0) atomic_store(&s->failed, 1);
        entry->packed = (uint32_t)packed;
        entry->hash = ml_hash(out, (int64_t)packed, 0);
    }
}

/* Packs what could not be packed once more, on this thread: for the sentence. */
static int repeat_failure(saving *s, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const ml_page *page = s->pages[s->first + i];
        if (s->entries[s->first + i].packed == 0 && ml_page_pack(page, s->packers[0], s->packed) == 0) {
            return page->data || page->packed ? ML_E_MEMORY : ML_E_IO;
        }
    }
    return ml_error(ML_E_MEMORY, "out of memory: packing the pages of %s", s->file.path);
}

static int write_pages(saving *s) {
    for (s->first = 0; s->first < s->count; s->first += GROUP) {
        if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
        const int64_t count = s->count - s->first < GROUP ? s->count - s->first : GROUP;
        ml_parallel(count, 1, pack_pages, s);
        if (atomic_load(&s->failed)) return repeat_failure(s, count);
        for (int64_t i = 0; i < count; i++) {
            const ml_saved_entry *entry = &s->entries[s->first + i];
            int status = ml_file_write(&s->file, s->packed + (size_t)i * s->bound, entry->packed);
            if (status != ML_OK) return status;
            s->header.info.page_bytes += entry->bytes;
            s->header.info.packed_bytes += entry->packed;
        }
    }
    return ML_OK;
}

static int write_index(saving *s) {
    const size_t bytes = (size_t)s->count * ML_SAVED_ENTRY;
    uint8_t *index = ml_calloc(bytes, 1);
    if (!index) return ML_E_MEMORY;
    for (int64_t i = 0; i < s->count; i++) ml_saved_put_entry(&s->entries[i], index + i * ML_SAVED_ENTRY);
    s->header.index_hash = ml_hash(index, (int64_t)bytes, 0);
    int status = ml_file_write(&s->file, index, bytes);
    free(index);
    return status;
}

static int write_policy(saving *s) {
    const int64_t bytes = ml_saved_policy_bytes(s->cache, s->format_count);
    uint8_t *part = ml_calloc((size_t)bytes, 1);
    if (!part) return ML_E_MEMORY;
    ml_saved_put_policy(s->cache, s->formats, s->format_count, part);
    s->header.policy_bytes = bytes;
    s->header.policy_hash = ml_hash(part, bytes, 0);
    int status = ml_file_write(&s->file, part, (size_t)bytes);
    free(part);
    return status;
}

/* Copies text into a field of the header, cut to fit; the rest of it is 0. */
static void put_text(char *field, size_t size, const char *text) {
    const size_t length = strlen(text);
    memset(field, 0, size);
    memcpy(field, text, length < size ? length : size - 1);
}

static void hash_content(const ml_cache *cache, const ml_sequence *sequence, const ml_identity *identity,
                         uint64_t out[2]) {
    for (int i = 0; i < 2; i++) {
        uint64_t hash = ml_hash_add(identity->model[i], identity->tokenizer[i]);
        hash = ml_hash_add(hash, (uint64_t)cache->dtype);
        out[i] = ml_hash(sequence->ids, sequence->length * (int64_t)sizeof *sequence->ids, hash);
    }
}

int ml_sequence_content(const ml_cache *cache, int32_t sequence, const ml_identity *identity, uint64_t out[2]) {
    const ml_sequence *s = ml_sequence_find(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    hash_content(cache, s, identity, out);
    return ML_OK;
}

static void describe(saving *s, int32_t number, const ml_identity *identity, const char *text, int64_t text_bytes) {
    const ml_cache *cache = s->cache;
    const ml_sequence *sequence = s->sequence;
    ml_saved_info *info = &s->header.info;
    const ml_shape *shape = &cache->shape;
    const char *isa = ml_kernels_numbers();
    info->tokens = sequence->length;
    info->sound = sequence->isa == isa ? ml_sequence_sound(cache, number) : 0;
    info->text_bytes = text_bytes;
    info->page_count = s->count;
    for (int64_t i = 0; i < s->count; i++) info->quantised += s->entries[i].format != 0;
    info->created = (int64_t)time(NULL);
    info->dtype = cache->dtype;
    info->layers = cache->shape.layers;
    info->identity = *identity;
    s->header.kv_heads = cache->shape.kv_heads;
    s->header.head_dim = cache->shape.head_dim;
    s->header.ids_hash = ml_hash(sequence->ids, sequence->length * (int64_t)sizeof *sequence->ids, 0);
    s->header.text_hash = ml_hash(text, text_bytes, 0);
    hash_content(cache, sequence, identity, info->content);
    put_text(info->name, sizeof info->name, shape->name);
    put_text(info->file, sizeof info->file, shape->file);
    put_text(info->isa, sizeof info->isa, isa);
    put_text(info->version, sizeof info->version, ml_version());
    put_text(info->architecture, sizeof info->architecture, shape->architecture);
}

static int write_all(saving *s, const char *text) {
    uint8_t header[ML_SAVED_HEADER] = {0};
    ml_saved_info *info = &s->header.info;
    int status = ml_file_write(&s->file, header, sizeof header); /* its place; what it says is known at the end */
    if (status == ML_OK) {
        status = ml_file_write(&s->file, s->sequence->ids, (size_t)info->tokens * sizeof *s->sequence->ids);
    }
    if (status == ML_OK) status = ml_file_write(&s->file, text, (size_t)info->text_bytes);
    if (status == ML_OK) status = write_policy(s);
    if (status == ML_OK) status = write_pages(s);
    if (status == ML_OK) status = write_index(s);
    if (status != ML_OK) return status;
    info->bytes = s->file.bytes + ML_SAVED_HEADER;
    ml_saved_put_header(&s->header, header);
    status = ml_file_write(&s->file, header, sizeof header);
    return status == ML_OK ? ml_file_rewrite(&s->file, header, sizeof header) : status;
}

/* Takes up a format that is not among them yet. */
static int add_format(saving *s, const ml_format *format) {
    if (ml_saved_format(s->formats, s->format_count, format) < s->format_count) return ML_OK;
    void *list = s->formats;
    int status = ml_grow(&list, &s->format_capacity, s->format_count + 1, sizeof *s->formats);
    s->formats = list;
    if (status == ML_OK) s->formats[s->format_count++] = format;
    return status;
}

/* Takes up a page as the next one of the file. */
static int add_page(saving *s, const ml_page *page, int64_t at, int32_t frozen) {
    int status = add_format(s, page->format);
    if (status != ML_OK) return status;
    s->entries[s->count] = (ml_saved_entry){
        .layer = (uint32_t)(at % s->cache->shape.layers),
        .page = (uint32_t)(at / s->cache->shape.layers),
        .format = (uint32_t)ml_saved_format(s->formats, s->format_count, page->format),
        .bytes = (uint32_t)page->format->bytes,
        .frozen = (uint32_t)frozen,
    };
    s->pages[s->count++] = page;
    return ML_OK;
}

static int list_pages(saving *s) {
    const ml_cache *cache = s->cache;
    const int64_t pages = (s->sequence->length + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * cache->shape.layers;
    int64_t origins = 0;
    for (int64_t i = 0; i < pages; i++) origins += s->sequence->pages[i]->origin != NULL;
    s->entries = ml_calloc((size_t)(pages + origins), sizeof *s->entries);
    s->pages = ml_calloc((size_t)(pages + origins), sizeof *s->pages);
    if (!s->entries || !s->pages) return ML_E_MEMORY;
    int status = add_format(s, cache->plain);
    for (int32_t l = 0; status == ML_OK && cache->goal && l < cache->shape.layers; l++) {
        status = add_format(s, cache->goal[l]);
    }
    for (int64_t i = 0; status == ML_OK && i < pages; i++) {
        const ml_page *page = s->sequence->pages[i];
        status = add_page(s, page, i, 0);
        if (status == ML_OK && page->origin) status = add_page(s, page->origin, i, page->frozen);
    }
    return status;
}

static int allocate(saving *s) {
    int64_t largest = 0;
    for (size_t i = 0; i < s->format_count; i++) {
        if (s->formats[i]->bytes > largest) largest = s->formats[i]->bytes;
    }
    s->bound = ml_packed_bound((size_t)largest);
    s->threads = ml_threads_count();
    s->packed = ml_alloc_aligned(GROUP, s->bound);
    s->packers = ml_calloc((size_t)s->threads, sizeof *s->packers);
    if (!s->packed || !s->packers) return ML_E_MEMORY;
    int status = ML_OK;
    for (int i = 0; status == ML_OK && i < s->threads; i++) {
        status = ml_packer_create((size_t)largest, &s->packers[i]);
    }
    return status;
}

static void release(saving *s) {
    ml_file_abandon(&s->file);
    for (int i = 0; s->packers && i < s->threads; i++) ml_packer_free(s->packers[i]);
    free(s->packers);
    free(s->packed);
    free(s->formats);
    free(s->pages);
    free(s->entries);
}

int ml_sequence_save(ml_cache *cache, int32_t sequence, const ml_identity *identity, const char *text, int64_t bytes,
                     const char *path) {
    const ml_sequence *from = ml_sequence_find(cache, sequence);
    if (!from) return ML_E_ARGUMENT;
    if (from->length == 0) return ml_error(ML_E_ARGUMENT, "an empty session is not saved");
    if (bytes < 0) return ml_error(ML_E_ARGUMENT, "a text has 0 bytes or more, not %lld", (long long)bytes);
    saving s = {.cache = cache, .sequence = from, .file.descriptor = -1};
    int status = list_pages(&s);
    if (status == ML_OK) status = allocate(&s);
    if (status == ML_OK) status = ml_file_create(path, &s.file);
    if (status == ML_OK) {
        describe(&s, sequence, identity, text, bytes);
        status = write_all(&s, text);
    }
    if (status == ML_OK) status = ml_file_commit(&s.file);
    release(&s);
    return status;
}
