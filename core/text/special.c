#include "text/special.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* Order of two names: byte by byte, the shorter first. */
static int compare_names(const ml_vocab *vocab, int32_t a, int32_t b) {
    size_t length_a = ml_vocab_length(vocab, a), length_b = ml_vocab_length(vocab, b);
    int order = memcmp(ml_vocab_bytes(vocab, a), ml_vocab_bytes(vocab, b), length_a < length_b ? length_a : length_b);
    if (order != 0) return order;
    if (length_a != length_b) return length_a < length_b ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Heap sort: qsort() takes no context. */
static void sift_down(ml_specials *specials, size_t at, size_t count) {
    int32_t *ids = specials->ids, moving = ids[at];
    for (size_t child; (child = at * 2 + 1) < count; at = child) {
        if (child + 1 < count && compare_names(specials->vocab, ids[child], ids[child + 1]) < 0) child++;
        if (compare_names(specials->vocab, moving, ids[child]) >= 0) break;
        ids[at] = ids[child];
    }
    ids[at] = moving;
}

static void sort_names(ml_specials *specials) {
    for (size_t i = specials->count / 2; i-- > 0;) sift_down(specials, i, specials->count);
    for (size_t last = specials->count; last-- > 1;) {
        int32_t largest = specials->ids[0];
        specials->ids[0] = specials->ids[last];
        specials->ids[last] = largest;
        sift_down(specials, 0, last);
    }
}

int ml_specials_build(ml_specials *specials, const ml_vocab *vocab, int only_user) {
    specials->vocab = vocab;
    specials->only_first = -1;
    size_t capacity = 0;
    for (int32_t id = 0; id < vocab->count; id++) {
        if (ml_vocab_length(vocab, id) == 0 || !ml_vocab_is_apart(vocab, id)) continue;
        if (only_user && vocab->type[id] != ML_TOKEN_USER) continue;
        int status = ml_grow((void **)&specials->ids, &capacity, specials->count + 1, sizeof *specials->ids);
        if (status != ML_OK) return status;
        specials->ids[specials->count++] = id;
        uint8_t first = *ml_vocab_bytes(vocab, id);
        if (specials->count == 1) specials->only_first = first;
        if (specials->only_first != first) specials->only_first = -1;
        specials->first[first] = 1;
    }
    if (specials->count > 1) sort_names(specials);
    return ML_OK;
}

void ml_specials_release(ml_specials *specials) {
    free(specials->ids);
}

/* First of ids[low, high) whose byte at `depth` is at least `byte`; all of them are longer than `depth`. */
static size_t lower_bound(const ml_specials *specials, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ml_vocab_bytes(specials->vocab, specials->ids[middle])[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest name that `text` begins with, or -1: the range of names that agree narrows byte by byte. */
static int32_t longest_name(const ml_specials *specials, const uint8_t *text, size_t bytes) {
    int32_t found = -1;
    size_t low = 0, high = specials->count;
    for (size_t depth = 0; low < high; depth++) {
        /* A name that ends here sorts before those that go on. */
        if (ml_vocab_length(specials->vocab, specials->ids[low]) == depth) found = specials->ids[low];
        while (low < high && ml_vocab_length(specials->vocab, specials->ids[low]) == depth) low++;
        if (depth == bytes) break;
        size_t begin = lower_bound(specials, low, high, depth, text[depth]);
        high = lower_bound(specials, begin, high, depth, text[depth] + 1);
        low = begin;
    }
    return found;
}

int32_t ml_specials_find(const ml_specials *specials, const uint8_t *text, size_t bytes, size_t from, size_t *begin) {
    *begin = bytes;
    if (specials->count == 0) return -1;
    for (size_t at = from; at < bytes; at++) {
        if (specials->only_first >= 0) {
            const uint8_t *hit = memchr(text + at, specials->only_first, bytes - at);
            if (!hit) return -1;
            at = (size_t)(hit - text);
        } else if (!specials->first[text[at]]) {
            continue;
        }
        if (ml_interrupt_pending()) return -1; /* a text may begin everywhere as a long name does */
        int32_t id = longest_name(specials, text + at, bytes - at);
        if (id < 0) continue;
        *begin = at;
        return id;
    }
    return -1;
}
