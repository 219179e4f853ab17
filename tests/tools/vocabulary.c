/* Prints what the loader of a model file hands to core/text, a line for each field. Built by vocabulary_test.lua: the
 * fields are in no public header. */
#include "base/error.h"
#include "load/weights.h"

#include <stdio.h>

static void print_text(const uint8_t *text, size_t bytes) {
    printf(" '%.*s'", (int)bytes, (const char *)text);
}

/* Every string in order, and once more each by its number. Returns 0 if the two differ. */
static int print_strings(const char *label, const ml_strings *strings) {
    size_t sum = 0, bytes;
    printf("%s %lld:", label, (long long)strings->count);
    const uint8_t *next = strings->count > 0 ? ml_strings_at(strings, 0) : NULL;
    for (int64_t i = 0; i < strings->count; i++) {
        if (ml_strings_at(strings, i) != next) return 0;
        const uint8_t *text = ml_string_next(&next, &bytes);
        print_text(text, bytes);
        sum += bytes;
    }
    printf("\n%s bytes: %s\n", label, sum == strings->bytes ? "right" : "wrong");
    return 1;
}

static int print_vocabulary(const ml_vocabulary *v) {
    printf("scheme: %s\n", v->scheme == ML_VOCABULARY_BYTE_LEVEL ? "byte-level" : "sentencepiece");
    if (!print_strings("tokens", &v->tokens)) return 0;
    printf("types:");
    for (int64_t i = 0; v->types && i < v->tokens.count; i++) printf(" %d", v->types[i]);
    printf("\nscores:");
    for (int64_t i = 0; v->scores && i < v->tokens.count; i++) printf(" %g", (double)v->scores[i]);
    printf("\nids: bos %d, unknown %d, ends %d %d %d\n", v->bos, v->unknown, v->ends[0], v->ends[1], v->ends[2]);
    printf("flags: add_bos %d, add_space %d\n", v->add_bos, v->add_space);
    printf("pre:");
    if (v->pre) print_text((const uint8_t *)v->pre, v->pre_bytes);
    printf("\n");
    return print_strings(v->merges_name ? v->merges_name : "merges", &v->merges);
}

int main(int count, char **arguments) {
    ml_weights *weights = NULL;
    ml_vocabulary vocabulary;
    if (count != 2 || ml_weights_open(arguments[1], &weights) != ML_OK) {
        printf("%s\n", count == 2 ? ml_last_error() : "vocabulary FILE");
        return 1;
    }
    int good = ml_weights_vocabulary(weights, &vocabulary) == ML_OK;
    if (!good)
        printf("%s\n", ml_last_error());
    else
        good = print_vocabulary(&vocabulary);
    ml_vocabulary_release(&vocabulary);
    ml_weights_free(weights);
    return !good;
}
