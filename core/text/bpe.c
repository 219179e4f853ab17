#include "text/bpe.h"

#include "base/error.h"
#include "base/memory.h"
#include "load/weights.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static const char MERGES[] = "tokenizer.ggml.merges";

/* ---- GPT-2's spelling of bytes ---------------------------------------------------------------- */

/* The byte that character `c` spells, or -1. GPT-2 writes the bytes that print as the characters of the same number,
 * and the other 68 (0..32, 127..160, 173), in order, as U+0100 and on (openai/gpt-2, encoder.py, bytes_to_unicode). */
static int byte_of(int c) {
    if (c >= 256 + 68) return -1;
    if (c >= 256 + 67) return 173;
    if (c >= 256 + 33) return c - 256 - 33 + 127;
    if (c >= 256) return c - 256;
    return (c >= 33 && c <= 126) || (c >= 161 && c != 173) ? c : -1;
}

/* Turns the spelling back into bytes; what is no spelling stays as it is. */
static size_t unspell(const uint8_t *text, size_t bytes, uint8_t *out) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int c = text[i], two = c >= 0xc2 && c <= 0xc5 && i + 1 < bytes && (text[i + 1] & 0xc0) == 0x80;
        if (two) c = (c & 0x1f) << 6 | (text[i + 1] & 0x3f);
        int byte = two || c < 0x80 ? byte_of(c) : -1;
        out[count++] = byte >= 0 ? (uint8_t)byte : text[i];
        if (byte >= 0 && two) i++;
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

static size_t pair_slot(const ml_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ bpe->seed;
    key *= 0x9e3779b97f4a7c15u;
    return (size_t)(key ^ key >> 32) & bpe->mask;
}

/* The slot that holds the pair, or the empty one where it belongs. */
static ml_bpe_pair *find_pair(const ml_bpe *bpe, int32_t left, int32_t right) {
    size_t at = pair_slot(bpe, left, right);
    while (bpe->pairs[at].rank != ML_MERGE_NONE && (bpe->pairs[at].left != left || bpe->pairs[at].right != right))
        at = (at + 1) & bpe->mask;
    return &bpe->pairs[at];
}

/* ml_pair_rank of byte-level BPE. */
static uint32_t rank_pair(const void *scheme, const uint8_t *text, const ml_symbol *left, const ml_symbol *right,
                          int32_t *merged) {
    (void)text;
    const ml_bpe_pair *pair = find_pair(scheme, left->id, right->id);
    *merged = pair->merged;
    return pair->rank;
}

static int create_pairs(ml_bpe *bpe, size_t merges) {
    size_t slots = 1024;
    while (slots < merges * 2) slots *= 2;
    bpe->pairs = ml_alloc_aligned(slots, sizeof *bpe->pairs);
    if (!bpe->pairs) return ML_E_MEMORY;
    ml_memory_huge(bpe->pairs, slots * sizeof *bpe->pairs);
    for (size_t i = 0; i < slots; i++) bpe->pairs[i].rank = ML_MERGE_NONE;
    bpe->mask = slots - 1;
    bpe->seed = (uint64_t)(uintptr_t)bpe->pairs * 0xd6e8feb86659fd93u;
    return ML_OK;
}

/* Merges are read in blocks: their texts, then the tokens they name, then the table, each step asking the processor
 * early for what the next one looks at. Otherwise half a million merges wait for memory one by one. */
enum { MERGE_BLOCK = 64 };

typedef struct merge_block {
    int count;
    uint8_t *text; /* both parts of all merges, one after the other, as bytes */
    size_t capacity, used;
    struct {
        size_t at, left, both; /* where in `text`; bytes of the left part and of both */
    } place[MERGE_BLOCK];
    ml_bpe_pair pair[MERGE_BLOCK];
} merge_block;

/* Adds the text of a merge "left right". */
static int add_merge(merge_block *block, const ml_bpe *bpe, ml_weights *weights, int64_t index) {
    const char *text;
    int64_t bytes;
    int status = ml_meta_string(weights, MERGES, index, &text, &bytes);
    if (status != ML_OK) return status;
    const char *space = bytes > 1 ? memchr(text + 1, ' ', (size_t)bytes - 1) : NULL;
    if (!space || space == text + bytes - 1)
        return ml_error(ML_E_FORMAT, "%s: item %lld of %s is no two parts with a space between",
                        ml_weights_path(weights), (long long)index, MERGES);
    status = ml_grow((void **)&block->text, &block->capacity, block->used + (size_t)bytes, 1);
    if (status != ML_OK) return status;
    uint8_t *out = block->text + block->used;
    size_t left = unspell((const uint8_t *)text, (size_t)(space - text), out);
    size_t both = left + unspell((const uint8_t *)space + 1, (size_t)(text + bytes - space - 1), out + left);
    ml_vocab_prefetch(bpe->vocab, out, left);
    ml_vocab_prefetch(bpe->vocab, out + left, both - left);
    block->place[block->count].at = block->used;
    block->place[block->count].left = left;
    block->place[block->count].both = both;
    block->pair[block->count++].rank = (uint32_t)index;
    block->used += both;
    return ML_OK;
}

/* Finds the tokens that merge `i` names: pair.left = -1 if one of the three is none. `last` is what the merge before
 * makes: files go through the tokens in order, so the one looked for is mostly that or the next. */
static void find_tokens(merge_block *block, const ml_bpe *bpe, int i, int32_t *last) {
    const uint8_t *text = block->text + block->place[i].at;
    size_t left = block->place[i].left, both = block->place[i].both;
    ml_bpe_pair *pair = &block->pair[i];
    if (!ml_vocab_is_plain(bpe->vocab, *last, text, both)) {
        int next = ml_vocab_is_plain(bpe->vocab, (int64_t)*last + 1, text, both);
        *last = next ? *last + 1 : ml_vocab_find_plain(bpe->vocab, text, both);
    }
    pair->merged = *last;
    pair->left = ml_vocab_find_plain(bpe->vocab, text, left);
    pair->right = ml_vocab_find_plain(bpe->vocab, text + left, both - left);
    if (pair->right < 0 || pair->merged < 0) pair->left = -1;
    if (pair->left >= 0) __builtin_prefetch(&bpe->pairs[pair_slot(bpe, pair->left, pair->right)]);
}

/* Fills the table. A merge whose parts or product are no tokens could never be written down as ids: it is left out. */
static int load_merges(ml_bpe *bpe, ml_weights *weights, int64_t count) {
    merge_block block = {0};
    int32_t last = -1;
    int status = create_pairs(bpe, (size_t)count);
    for (int64_t index = 0; index < count && status == ML_OK;) {
        block.count = 0;
        block.used = 0;
        while (index < count && block.count < MERGE_BLOCK && status == ML_OK)
            status = add_merge(&block, bpe, weights, index++);
        for (int i = 0; i < block.count; i++) find_tokens(&block, bpe, i, &last);
        for (int i = 0; i < block.count; i++) {
            if (block.pair[i].left < 0) continue;
            ml_bpe_pair *slot = find_pair(bpe, block.pair[i].left, block.pair[i].right);
            if (slot->rank == ML_MERGE_NONE) *slot = block.pair[i];
        }
    }
    free(block.text);
    return status;
}

static int count_merges(ml_weights *weights, int64_t *count) {
    int kind, item;
    int status = ml_meta_kind(weights, MERGES, &kind, &item, count);
    if (status == ML_E_NOT_FOUND)
        return ml_error(ML_E_FORMAT, "%s: %s is missing, which byte-level BPE needs", ml_weights_path(weights), MERGES);
    if (status != ML_OK) return status;
    /* An array without items may have items of any kind. */
    if (kind != ML_META_ARRAY || (item != ML_META_STRING && *count > 0))
        return ml_error(ML_E_FORMAT, "%s: %s is no array of strings", ml_weights_path(weights), MERGES);
    if (*count >= UINT32_MAX / 4)
        return ml_error(ML_E_FORMAT, "%s: %s has %lld items", ml_weights_path(weights), MERGES, (long long)*count);
    return ML_OK;
}

/* ---- loading and encoding --------------------------------------------------------------------- */

static int load_pre(ml_bpe *bpe, ml_weights *weights) {
    const char *name = "default";
    int64_t bytes = (int64_t)strlen(name);
    int status = ml_meta_string(weights, "tokenizer.ggml.pre", 0, &name, &bytes);
    if (status != ML_OK && status != ML_E_NOT_FOUND) return status;
    return ml_splitter_create(name, (size_t)bytes, ml_weights_path(weights), &bpe->splitter, &bpe->traits);
}

int ml_bpe_load(ml_bpe *bpe, ml_vocab *vocab, ml_weights *weights) {
    int64_t merges = 0;
    bpe->vocab = vocab;
    for (int byte = 0; byte < 256; byte++) {
        uint8_t text = (uint8_t)byte;
        vocab->byte_id[byte] = ml_vocab_find_plain(vocab, &text, 1);
        if (vocab->byte_id[byte] < 0)
            return ml_error(ML_E_FORMAT, "%s: the vocabulary has no token for byte 0x%02X, which byte-level BPE needs",
                            ml_weights_path(weights), byte);
    }
    int status = load_pre(bpe, weights);
    if (status == ML_OK) status = count_merges(weights, &merges);
    if (status == ML_OK) status = load_merges(bpe, weights, merges);
    return status;
}

void ml_bpe_release(ml_bpe *bpe) {
    ml_splitter_free(bpe->splitter);
    free(bpe->pairs);
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
