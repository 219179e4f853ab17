/* A vocabulary as every loader hands it to core/text, whatever its file calls things. */
#ifndef ML_LOAD_VOCABULARY_H
#define ML_LOAD_VOCABULARY_H

#include "load/strings.h"

/* Types of tokens. The numbers are those of SentencePiece's pieces, which GGUF has, too. */
enum {
    ML_TOKEN_NORMAL = 1,
    ML_TOKEN_UNKNOWN = 2,
    ML_TOKEN_CONTROL = 3,
    ML_TOKEN_USER = 4,
    ML_TOKEN_UNUSED = 5,
    ML_TOKEN_BYTE = 6
};

/* How text becomes tokens. BYTE_LEVEL: BPE whose tokens and merges are in GPT-2's spelling of bytes. SENTENCEPIECE: BPE
 * by scores, where U+2581 is a space and "<0xXX>" one byte. */
enum { ML_VOCABULARY_BYTE_LEVEL = 0, ML_VOCABULARY_SENTENCEPIECE = 1 };

/* MOST: tokens. ENDS: ways in which files name an end. */
enum { ML_VOCABULARY_MOST = INT32_MAX / 4, ML_VOCABULARY_ENDS = 3 };

/* The loader has checked shapes and sizes: lists that go with the tokens have one item for each, ids are those of
 * tokens, types are ML_TOKEN_... What strings and scores mean is checked by core/text. Only `types` and `scores` are
 * owned; everything else lives as long as the weights. */
typedef struct ml_vocabulary {
    const char *path; /* of the file, for error sentences */
    int scheme;       /* ML_VOCABULARY_... */
    ml_strings tokens;
    uint8_t *types; /* {tokens} ML_TOKEN_...; NULL if the file says nothing: all are normal */

    int32_t bos;                      /* begin of text, or -1 */
    int32_t unknown;                  /* what stands for text that has no token, or -1 */
    int32_t ends[ML_VOCABULARY_ENDS]; /* end of text, of a turn, of a message; each may be -1 */
    int add_bos;                      /* whether bos belongs in front of a text: 0, 1, or -1 if the file says nothing */
    int add_space;                    /* whether a space belongs in front of a text: 0, 1 or -1; SentencePiece alone */

    const char *pre; /* name of the pre-tokenizer, or NULL if the file says nothing; byte-level BPE alone */
    size_t pre_bytes;
    ml_strings merges;       /* "left right", the best first; byte-level BPE alone */
    const char *merges_name; /* what the file calls them, for error sentences */

    float *scores; /* {tokens}; SentencePiece alone, else NULL */
} ml_vocabulary;

/* Frees what it owns; a zeroed one is fine. */
void ml_vocabulary_release(ml_vocabulary *vocabulary);

#endif
