#include "text/fingerprint.h"

#include "base/hash.h"
#include "text/tokenizer.h"

static uint64_t fingerprint(const ml_tokenizer *tokenizer, uint64_t hash) {
    const ml_vocab *vocab = &tokenizer->vocab;
    hash = ml_hash_add(hash, (uint64_t)vocab->count);
    for (int32_t id = 0; id < vocab->count; id++) {
        hash = ml_hash(ml_vocab_bytes(vocab, id), (int64_t)ml_vocab_length(vocab, id), hash);
    }
    hash = ml_hash(vocab->type, vocab->count, hash);
    return ml_hash_add(hash, (uint64_t)tokenizer->is_bpe);
}

void ml_tokenizer_fingerprint(const ml_tokenizer *tokenizer, uint64_t out[2]) {
    out[0] = fingerprint(tokenizer, 1);
    out[1] = fingerprint(tokenizer, 2);
}
