#include "text/split.h"

#include "base/error.h"
#include "base/memory.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

/* White space as the Unicode property White_Space has it, which the published patterns mean by \s (they are run by
 * Rust's regex). PCRE2's own \s counts U+180E as well. */
#define SPACES    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE     "[" SPACES "]"
#define NOT_SPACE "[^" SPACES "]"

/* The ends that all patterns share: a run of spaces leaves its last one to the word after it. */
#define SPACE_RUNS SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

/* openai/tiktoken, openai_public.py, o200k_base: marks (\p{M}) count as letters. */
#define O200K_UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define O200K_LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
static const char o200k[] = "[^\\r\\n\\p{L}\\p{N}]?[" O200K_UPPER "]*[" O200K_LOWER "]+" CONTRACTION "?"
                            "|[^\\r\\n\\p{L}\\p{N}]?[" O200K_UPPER "]+[" O200K_LOWER "]*" CONTRACTION "?"
                            "|\\p{N}{1,3}"
                            "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n/]*"
                            "|" SPACE "*[\\r\\n]+"
                            "|" SPACE_RUNS;

/* meta-llama/llama3, tokenizer.py. */
static const char llama3[] = CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                         "|\\p{N}{1,3}"
                                         "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*"
                                         "|" SPACE "*[\\r\\n]+"
                                         "|" SPACE_RUNS;

/* Qwen/Qwen2.5, tokenizer.json: Llama 3's, but every digit is a piece of its own. */
static const char qwen2[] = CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                        "|\\p{N}"
                                        "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*"
                                        "|" SPACE "*[\\r\\n]+"
                                        "|" SPACE_RUNS;

/* openai/gpt-2, encoder.py. */
static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                           "| ?[^" SPACES "\\p{L}\\p{N}]+"
                           "|" SPACE_RUNS;

static const struct pre {
    const char *name, *pattern;
    ml_split_traits traits;
} known[] = {
    {"gpt-4o", o200k, {.whole_first = 1}},
    {"o200k", o200k, {.whole_first = 1}},
    {"llama-bpe", llama3, {.whole_first = 1, .bos = 1}},
    {"llama3", llama3, {.whole_first = 1, .bos = 1}},
    {"llama-v3", llama3, {.whole_first = 1, .bos = 1}},
    {"qwen2", qwen2, {0}},
    {"deepseek-r1-qwen", qwen2, {0}},
    {"gpt-2", gpt2, {0}},
    {"gpt2", gpt2, {0}},
    {"default", gpt2, {0}},
};

struct ml_splitter {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
};

static const struct pre *find_pre(const char *name, size_t bytes) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == bytes && memcmp(known[i].name, name, bytes) == 0) return &known[i];
    return NULL;
}

static int compile(ml_splitter *splitter, const struct pre *pre) {
    int problem;
    PCRE2_SIZE where;
    splitter->code = pcre2_compile((PCRE2_SPTR)pre->pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &problem, &where, NULL);
    if (!splitter->code) {
        char message[128];
        pcre2_get_error_message(problem, (PCRE2_UCHAR *)message, sizeof message);
        return ml_error(ML_E_UNSUPPORTED, "this PCRE2 does not take the pattern of '%s': %s (at %zu)", pre->name,
                        message, (size_t)where);
    }
    pcre2_jit_compile(splitter->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, the interpreter runs */
    splitter->match = pcre2_match_data_create(1, NULL);
    splitter->context = pcre2_match_context_create(NULL);
    if (!splitter->match || !splitter->context) return ml_error(ML_E_MEMORY, "out of memory for the pre-tokenizer");
    /* The patterns look at a character a bounded number of times, so a long piece may take as many steps as it
     * needs: the limits guard against patterns that are not ours. */
    pcre2_set_match_limit(splitter->context, UINT32_MAX);
    pcre2_set_depth_limit(splitter->context, UINT32_MAX);
    return ML_OK;
}

int ml_splitter_create(const char *name, size_t bytes, const char *path, ml_splitter **out, ml_split_traits *traits) {
    const struct pre *pre = find_pre(name, bytes);
    if (!pre)
        return ml_error(ML_E_UNSUPPORTED,
                        "%s: unknown pre-tokenizer '%.*s' (gpt-4o, llama-bpe, qwen2 and gpt-2 are known)", path,
                        bytes < 64 ? (int)bytes : 64, name);
    ml_splitter *splitter = ml_calloc(1, sizeof *splitter);
    if (!splitter) return ML_E_MEMORY;
    int status = compile(splitter, pre);
    if (status != ML_OK) {
        ml_splitter_free(splitter);
        return status;
    }
    *traits = pre->traits;
    *out = splitter;
    return ML_OK;
}

void ml_splitter_free(ml_splitter *splitter) {
    if (!splitter) return;
    pcre2_match_context_free(splitter->context);
    pcre2_match_data_free(splitter->match);
    pcre2_code_free(splitter->code);
    free(splitter);
}

int ml_splitter_next(ml_splitter *splitter, const uint8_t *text, size_t bytes, size_t at, size_t *end) {
    int found = pcre2_match(splitter->code, text, bytes, at, PCRE2_NO_UTF_CHECK, splitter->match, splitter->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(splitter->code, text, bytes, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, splitter->match,
                            splitter->context);
    if (found <= 0) {
        char message[128];
        pcre2_get_error_message(found, (PCRE2_UCHAR *)message, sizeof message);
        return ml_error(ML_E_ARGUMENT, "the pre-tokenizer stopped at byte %zu of the text: %s", at, message);
    }
    *end = pcre2_get_ovector_pointer(splitter->match)[1];
    return ML_OK;
}
