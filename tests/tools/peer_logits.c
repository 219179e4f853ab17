/* Prints, as JSON, the logits that llama.cpp gives for the token after some ids: f32 everywhere, no flash attention.
 *
 *   gcc tests/tools/peer_logits.c -o peer_logits -ILLAMA/include -ILLAMA/ggml/include -LBUILD/bin -lllama -lggml-base \
 *       -Wl,-rpath,BUILD/bin
 *   peer_logits MODEL.gguf EXT_FACTOR ID ...
 *
 * EXT_FACTOR is YaRN's, or -1 for the file's. Used by tests/tools/peer_models.lua. */
#include <llama.h>

#include <stdio.h>
#include <stdlib.h>

static void ignore(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char *what) {
    fprintf(stderr, "peer_logits: %s\n", what);
    return 1;
}

int main(int count, char **words) {
    if (count < 4) return fail("MODEL.gguf EXT_FACTOR ID ...");
    llama_log_set(ignore, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(words[1], llama_model_default_params());
    if (!model) return fail("the model does not load");
    struct llama_context_params wanted = llama_context_default_params();
    wanted.n_ctx = 0; /* the model's own */
    wanted.n_batch = wanted.n_ubatch = 512;
    wanted.n_threads = wanted.n_threads_batch = 1;
    wanted.type_k = wanted.type_v = GGML_TYPE_F32;
    wanted.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    wanted.yarn_ext_factor = (float)atof(words[2]);
    struct llama_context *context = llama_init_from_model(model, wanted);
    if (!context) return fail("no context");
    llama_token ids[512];
    const int tokens = count - 3 < 512 ? count - 3 : 512;
    for (int i = 0; i < tokens; i++) ids[i] = atoi(words[i + 3]);
    if (llama_decode(context, llama_batch_get_one(ids, tokens)) != 0) return fail("the batch does not run");
    const float *logits = llama_get_logits_ith(context, -1);
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int i = 0; i < vocabulary; i++) printf("%c%.5f", i ? ',' : '[', (double)logits[i]);
    puts("]");
    return 0;
}
