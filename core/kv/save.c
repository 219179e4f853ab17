/* Writing a saved session: see kv/saved.h for the file. */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/packed.h"
#include "kv/saved.h"
#include "load/weights.h"
#include "model/model.h"
#include "tensor/dtype.h"

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
    uint8_t *plain;          /* {threads, bytes of a plain page}: what quantised pages stand for */
    uint8_t *packed;         /* {GROUP, bound} */
    size_t bound;            /* of a packed page */
    ml_saved_entry *entries; /* {pages} */
    int64_t pages, first;    /* all; the first of the group under way */
    atomic_int status;
    ml_saved_header header;
} saving;

static void pack_pages(void *arg, int64_t begin, int64_t end, int thread) {
    saving *s = arg;
    const ml_cache *cache = s->cache;
    for (int64_t i = begin; i < end; i++) {
        const ml_page *page = s->sequence->pages[s->first + i];
        uint8_t *out = s->packed + (size_t)i * s->bound;
        const size_t bytes = (size_t)cache->plain->bytes, element = (size_t)ml_dtype_bytes(cache->dtype);
        const uint8_t *data = page->data;
        if (!page->format->plain) {
            uint8_t *decoded = s->plain + (size_t)thread * bytes;
            ml_page_convert(page->format, data, cache->plain, decoded, NULL, 0);
            data = decoded;
        }
        const size_t packed = ml_pack(s->packers[thread], data, bytes, element, out);
        if (packed == 0) {
            atomic_store(&s->status, ML_E_MEMORY);
            continue;
        }
        s->entries[s->first + i] = (ml_saved_entry){
            .layer = (uint32_t)((s->first + i) % cache->layers),
            .page = (uint32_t)((s->first + i) / cache->layers),
            .format = ML_SAVED_PLAIN,
            .bytes = (uint32_t)bytes,
            .packed = (uint32_t)packed,
            .hash = ml_hash(out, (int64_t)packed, 0),
        };
    }
}

static int write_pages(saving *s) {
    for (s->first = 0; s->first < s->pages; s->first += GROUP) {
        if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted");
        const int64_t count = s->pages - s->first < GROUP ? s->pages - s->first : GROUP;
        ml_parallel(count, 1, pack_pages, s);
        if (atomic_load(&s->status) != ML_OK) {
            return ml_error(ML_E_MEMORY, "out of memory: packing the pages of %s", s->file.path);
        }
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
    const size_t bytes = (size_t)s->pages * ML_SAVED_ENTRY;
    uint8_t *index = ml_calloc(bytes, 1);
    if (!index) return ML_E_MEMORY;
    for (int64_t i = 0; i < s->pages; i++) ml_saved_put_entry(&s->entries[i], index + i * ML_SAVED_ENTRY);
    s->header.index_hash = ml_hash(index, (int64_t)bytes, 0);
    int status = ml_file_write(&s->file, index, bytes);
    free(index);
    return status;
}

/* Copies text into a field of the header, cut to fit; the rest of it is 0. */
static void put_text(char *field, size_t size, const char *text, size_t length) {
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
    const ml_sequence *s = ml_cache_sequence(cache, sequence);
    if (!s) return ML_E_ARGUMENT;
    hash_content(cache, s, identity, out);
    return ML_OK;
}

static void describe(saving *s, const ml_identity *identity, const char *text, int64_t text_bytes) {
    const ml_cache *cache = s->cache;
    const ml_sequence *sequence = s->sequence;
    const ml_weights *weights = cache->model->weights;
    ml_saved_info *info = &s->header.info;
    const char *name = "", *file = ml_weights_path(weights), *isa = ml_kernels_numbers();
    int64_t name_bytes = 0;
    info->tokens = sequence->length;
    info->sound = sequence->isa == isa ? sequence->sound : 0;
    info->text_bytes = text_bytes;
    info->page_count = s->pages;
    info->created = (int64_t)time(NULL);
    info->dtype = cache->dtype;
    info->layers = cache->layers;
    info->identity = *identity;
    s->header.kv_heads = cache->kv_heads;
    s->header.head_dim = cache->head_dim;
    s->header.ids_hash = ml_hash(sequence->ids, sequence->length * (int64_t)sizeof *sequence->ids, 0);
    s->header.text_hash = ml_hash(text, text_bytes, 0);
    hash_content(cache, sequence, identity, info->content);
    if (ml_meta_string(weights, "general.name", 0, &name, &name_bytes) != ML_OK) name_bytes = 0;
    put_text(info->name, sizeof info->name, name, (size_t)name_bytes);
    put_text(info->file, sizeof info->file, file, strlen(file));
    put_text(info->isa, sizeof info->isa, isa, strlen(isa));
    put_text(info->version, sizeof info->version, ml_version(), strlen(ml_version()));
    put_text(info->architecture, sizeof info->architecture, cache->model->config.architecture,
             strlen(cache->model->config.architecture));
}

static int write_all(saving *s, const char *text) {
    uint8_t header[ML_SAVED_HEADER] = {0};
    ml_saved_info *info = &s->header.info;
    int status = ml_file_write(&s->file, header, sizeof header); /* its place; what it says is known at the end */
    if (status == ML_OK) {
        status = ml_file_write(&s->file, s->sequence->ids, (size_t)info->tokens * sizeof *s->sequence->ids);
    }
    if (status == ML_OK) status = ml_file_write(&s->file, text, (size_t)info->text_bytes);
    if (status == ML_OK) status = write_pages(s);
    if (status == ML_OK) status = write_index(s);
    if (status != ML_OK) return status;
    info->bytes = s->file.bytes + ML_SAVED_HEADER;
    ml_saved_put_header(&s->header, header);
    status = ml_file_write(&s->file, header, sizeof header);
    return status == ML_OK ? ml_file_rewrite(&s->file, header, sizeof header) : status;
}

static int allocate(saving *s) {
    s->bound = ml_packed_bound((size_t)s->cache->plain->bytes);
    s->threads = ml_threads_count();
    s->entries = ml_calloc((size_t)s->pages, sizeof *s->entries);
    s->packed = ml_alloc_aligned(GROUP, s->bound);
    s->plain = ml_alloc_aligned((size_t)s->threads, (size_t)s->cache->plain->bytes);
    s->packers = ml_calloc((size_t)s->threads, sizeof *s->packers);
    if (!s->entries || !s->packed || !s->plain || !s->packers) return ML_E_MEMORY;
    int status = ML_OK;
    for (int i = 0; status == ML_OK && i < s->threads; i++) {
        status = ml_packer_create((size_t)s->cache->plain->bytes, &s->packers[i]);
    }
    return status;
}

static void release(saving *s) {
    ml_file_abandon(&s->file);
    for (int i = 0; s->packers && i < s->threads; i++) ml_packer_free(s->packers[i]);
    free(s->packers);
    free(s->packed);
    free(s->plain);
    free(s->entries);
}

int ml_sequence_save(ml_cache *cache, int32_t sequence, const ml_identity *identity, const char *text, int64_t bytes,
                     const char *path) {
    const ml_sequence *from = ml_cache_sequence(cache, sequence);
    if (!from) return ML_E_ARGUMENT;
    if (from->length == 0) return ml_error(ML_E_ARGUMENT, "an empty session is not saved");
    if (bytes < 0) return ml_error(ML_E_ARGUMENT, "a text has 0 bytes or more, not %lld", (long long)bytes);
    saving s = {.cache = cache, .sequence = from, .file.descriptor = -1};
    s.pages = (from->length + ML_PAGE_TOKENS - 1) / ML_PAGE_TOKENS * cache->layers;
    int status = allocate(&s);
    if (status == ML_OK) status = ml_file_create(path, &s.file);
    if (status == ML_OK) {
        describe(&s, identity, text, bytes);
        status = write_all(&s, text);
    }
    if (status == ML_OK) status = ml_file_commit(&s.file);
    release(&s);
    return status;
}
