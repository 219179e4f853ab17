#include "text/bpe.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "text/utf8.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- GPT-2's spelling of bytes ---------------------------------------------------------------- */

/* GPT-2 writes the bytes that print as the characters of the same number, and the other 68 (0..32, 127..160, 173), in
 * order, as U+0100 and on (openai/gpt-2, encoder.py, bytes_to_unicode). From the number of a character of two bytes,
 * counted from U+0080, to the byte that it spells: what to add. */
enum { NO_SPELLING = 0x7fff };
static const int16_t spells[256] = {
    [0x00 ... 0x20] = NO_SPELLING, [0x21 ... 0x2c] = 128,        [0x2d] = NO_SPELLING, [0x2e ... 0x7f] = 128,
    [0x80 ... 0xa0] = -0x80,       [0xa1 ... 0xc2] = 127 - 0xa1, [0xc3] = 173 - 0xc3,  [0xc4 ... 0xff] = NO_SPELLING,
};

/* The byte that the character at text[i] spells, or -1. */
static int spelled_byte(const uint8_t *text, size_t bytes, size_t i) {
    const int lead = text[i], next = bytes - i > 1 ? text[i + 1] : 0;
    if (lead < 0xc2 || lead > 0xc5 || (next & 0xc0) != 0x80) return -1;
    const int number = (lead - 0xc2) << 6 | (next & 0x3f);
    return spells[number] == NO_SPELLING ? -1 : number + spells[number];
}

/* Turns the spelling back into bytes; what is no spelling stays as it is, and so does ASCII, eight bytes at a time.
 * `out` has room for ML_SPELLING_SLACK more bytes than `text` has. */
static size_t unspell(const uint8_t *text, size_t bytes, uint8_t *out) {
    size_t count = 0;
    for (size_t i = 0; i < bytes;) {
        const size_t part = bytes - i < 8 ? bytes - i : 8;
        const uint64_t word = ml_get_start(text + i, part), high = word & 0x8080808080808080u;
        const size_t ascii = high ? (size_t)__builtin_ctzll(high) / 8 : part;
        ml_put_u64(out + count, word);
        count += ascii;
        i += ascii;
        for (; i < bytes && text[i] >= 0x80; count++) {
            const int byte = spelled_byte(text, bytes, i);
            out[count] = byte >= 0 ? (uint8_t)byte : text[i];
            i += byte >= 0 ? 2 : 1;
        }
    }
    return count;
}

size_t ml_bpe_spelling(const uint8_t *text, size_t bytes, uint8_t *type, uint8_t *out) {
    if (*type == ML_TOKEN_NORMAL || *type == ML_TOKEN_UNUSED || *type == ML_TOKEN_BYTE)
        return unspell(text, bytes, out);
    memcpy(out, text, bytes);
    return bytes;
}

/* ---- merges ----------------------------------------------------------------------------------- */

/* ml_pair_rank of byte-level BPE. */
static uint32_t rank_pair(const void *scheme, const uint8_t *text, const ml_symbol *left, const ml_symbol *right,
                          int32_t *merged) {
    const ml_bpe *bpe = scheme;
    *merged = ml_vocab_find(bpe->vocab, text + left->begin, (size_t)left->length + right->length);
    uint32_t rank = ML_MERGE_NONE;
    for (uint32_t at = *merged < 0 ? 0 : bpe->highest[*merged]; at > 0; at = bpe->merges[at - 1].lower)
        if (bpe->merges[at - 1].left == left->length) rank = at - 1;
    return rank;
}

/* Reading the merges, in runs of which every thread takes some. */
typedef struct merge_reading {
    ml_bpe *bpe;
    const ml_strings *merges; /* as the file has them */
    atomic_llong damaged;     /* the first merge that is none, or count */
    atomic_int failed;        /* ML_E_MEMORY */
} merge_reading;

static void note_damage(merge_reading *reading, long long index) {
    long long first = atomic_load(&reading->damaged);
    while (index < first && !atomic_compare_exchange_weak(&reading->damaged, &first, index)) {
    }
}

/* The token that a merge makes, given as bytes, or -1. Files go through the tokens in order, so it is mostly that of
 * the merge before, `last`, or the next. */
static int32_t find_token(const ml_vocab *vocab, int32_t last, const uint8_t *text, size_t bytes) {
    for (int64_t id = last; id <= (int64_t)last + 1 && !vocab->has_twins; id++)
        if (ml_vocab_is_plain(vocab, id, text, bytes)) return (int32_t)id;
    return ml_vocab_find_plain(vocab, text, bytes);
}

/* Reads merges "left right". Leaves the token of each in .lower. */
static void read_merges(void *arg, int64_t begin, int64_t end, int thread) {
    (void)thread;
    merge_reading *reading = arg;
    const uint8_t *next = ml_strings_at(reading->merges, begin);
    uint8_t *out = NULL;
    size_t capacity = 0;
    int32_t last = -1;
    int status = ML_OK;
    for (int64_t i = begin; i < end && status == ML_OK; i++) {
        size_t bytes;
        const uint8_t *text = ml_string_next(&next, &bytes);
        const uint8_t *space = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
        if (!space || space == text + bytes - 1) {
            note_damage(reading, i);
            break;
        }
        if ((status = ml_grow((void **)&out, &capacity, bytes + ML_SPELLING_SLACK, 1)) != ML_OK) break;
        const size_t left = unspell(text, (size_t)(space - text), out);
        const size_t both = left + unspell(space + 1, (size_t)(text + bytes - space - 1), out + left);
        const int32_t token = find_token(reading->bpe->vocab, last, out, both);
        reading->bpe->merges[i] = (ml_bpe_merge){.left = (uint32_t)left, .lower = (uint32_t)token};
        if (token >= 0) last = token;
    }
    if (status != ML_OK) atomic_store(&reading->failed, status);
    free(out);
}

/* Adds merge `rank`, the highest so far, to those that make `token`. One that repeats a lower one never happens: left
 * out, a token has no more merges than bytes, and rank_pair() walks over all of them. */
static void add_merge(ml_bpe *bpe, int32_t token, uint32_t rank) {
    const uint32_t left = bpe->merges[rank].left, highest = bpe->highest[token];
    for (uint32_t at = highest; at > 0; at = bpe->merges[at - 1].lower)
        if (bpe->merges[at - 1].left == left) return;
    bpe->merges[rank].lower = highest;
    bpe->highest[token] = rank + 1;
}

/* A merge whose parts or product are no tokens can never happen: only the product is looked for. */
static int load_merges(ml_bpe *bpe, const ml_vocabulary *source) {
    const int64_t count = source->merges.count;
    if (count >= UINT32_MAX / 4)
        return ml_error(ML_E_FORMAT, "%s: %s has %lld items", source->path, source->merges_name, (long long)count);
    const size_t merge_bytes = (size_t)count * sizeof *bpe->merges;
    bpe->block_bytes = merge_bytes + (size_t)bpe->vocab->count * sizeof *bpe->highest;
    bpe->block = ml_memory_map(bpe->block_bytes);
    if (!bpe->block) return ML_E_MEMORY;
    bpe->merges = bpe->block;
    bpe->highest = (uint32_t *)(void *)((uint8_t *)bpe->block + merge_bytes);
    merge_reading reading = {.bpe = bpe, .merges = &source->merges};
    atomic_init(&reading.damaged, count);
    ml_parallel(count, 4096, read_merges, &reading);
    const long long damaged = atomic_load(&reading.damaged);
    if (atomic_load(&reading.failed)) return ml_error(ML_E_MEMORY, "out of memory for the merges of the tokenizer");
    if (damaged < count)
        return ml_error(ML_E_FORMAT, "%s: item %lld of %s is no two parts with a space between", source->path, damaged,
                        source->merges_name);
    for (int64_t i = 0; i < count; i++) {
        const int32_t token = (int32_t)bpe->merges[i].lower;
        if (token >= 0) add_merge(bpe, token, (uint32_t)i);
    }
    return ML_OK;
}

/* ---- loading and encoding --------------------------------------------------------------------- */

static int load_pre(ml_bpe *bpe, const ml_vocabulary *source) {
    const char *name = source->pre ? source->pre : "default";
    const size_t bytes = source->pre ? source->pre_bytes : strlen(name);
    return ml_splitter_create(name, bytes, source->path, &bpe->splitter, &bpe->traits);
}

int ml_bpe_load(ml_bpe *bpe, ml_vocab *vocab, const ml_vocabulary *source) {
    bpe->vocab = vocab;
    for (int byte = 0; byte < 256; byte++) {
        uint8_t text = (uint8_t)byte;
        vocab->byte_id[byte] = ml_vocab_find_plain(vocab, &text, 1);
        if (vocab->byte_id[byte] < 0)
            return ml_error(ML_E_FORMAT, "%s: the vocabulary has no token for byte 0x%02X, which byte-level BPE needs",
                            source->path, byte);
    }
    int status = load_pre(bpe, source);
    return status == ML_OK ? load_merges(bpe, source) : status;
}

void ml_bpe_release(ml_bpe *bpe) {
    ml_splitter_free(bpe->splitter);
    if (bpe->block) munmap(bpe->block, bpe->block_bytes);
}

static int encode_piece(const ml_bpe *bpe, ml_merger *merger, const uint8_t *piece, size_t bytes, ml_ids *out) {
    int32_t whole = bytes == 1 ? bpe->vocab->byte_id[*piece] : -1;
    if (bytes > 1 && bpe->traits.whole_first) whole = ml_vocab_find_plain(bpe->vocab, piece, bytes);
    if (whole >= 0) {
        ml_ids_put(out, whole);
        return ML_OK;
    }
    int status = ML_OK;
    ml_merger_clear(merger);
    for (size_t i = 0; i < bytes && status == ML_OK; i++)
        status = ml_merger_add(merger, (uint32_t)i, 1, bpe->vocab->byte_id[piece[i]]);
    if (status == ML_OK) status = ml_merger_run(merger, piece, rank_pair, bpe);
    if (status != ML_OK) return status;
    for (uint32_t at = 0; at != ML_MERGE_END; at = merger->symbols[at].next) ml_ids_put(out, merger->symbols[at].id);
    return ML_OK;
}

int ml_bpe_encode(const ml_bpe *bpe, ml_merger *merger, const uint8_t *text, size_t bytes, ml_ids *out) {
    int status = ML_OK;
    while (bytes > 0 && status == ML_OK) {
        size_t valid = ml_utf8_valid(text, bytes);
        for (size_t at = 0, end; at < valid && status == ML_OK; at = end) {
            if (ml_interrupt_pending()) return ml_error(ML_E_INTERRUPTED, "interrupted while tokenizing");
            status = ml_splitter_next(bpe->splitter, text, valid, at, &end);
            if (status == ML_OK) status = encode_piece(bpe, merger, text + at, end - at, out);
        }
        size_t invalid = status == ML_OK ? ml_utf8_invalid(text + valid, bytes - valid) : 0;
        if (invalid > 0) status = encode_piece(bpe, merger, text + valid, invalid, out);
        text += valid + invalid;
        bytes -= valid + invalid;
    }
    return status;
}
