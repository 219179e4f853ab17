/* Pre-tokenizers: the patterns that cut a text into pieces before byte-level BPE, run by PCRE2. */
#ifndef ML_TEXT_SPLIT_H
#define ML_TEXT_SPLIT_H

#include <stddef.h>
#include <stdint.h>

typedef struct ml_splitter ml_splitter;

/* What a pre-tokenizer asks for besides its pattern. */
typedef struct ml_split_traits {
    int whole_first; /* a piece that is a token as a whole is not merged (tiktoken does so) */
    int bos;         /* a begin-of-text token belongs in front unless the file says otherwise */
} ml_split_traits;

/* The pre-tokenizer that files call `name` (`bytes` long); `path` is for the error sentence. */
int ml_splitter_create(const char *name, size_t bytes, const char *path, ml_splitter **out, ml_split_traits *traits);
void ml_splitter_free(ml_splitter *splitter);
/* End of the piece that starts at `at` < `bytes`. The text must be well-formed UTF-8. */
int ml_splitter_next(ml_splitter *splitter, const uint8_t *text, size_t bytes, size_t at, size_t *end);

#endif
