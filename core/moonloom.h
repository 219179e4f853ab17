/* moonloom.h - the one contract of libmoonloom, and its manual.
 *
 * Conventions, for every function here:
 *   - `int` results are a status: ML_OK (0) or a negative ML_E_...; ml_last_error() then holds one
 *     sentence that says what, where and what to do. Outputs come last and are only written on ML_OK.
 *   - Handles are opaque. ml_<object>_free() accepts NULL. Handles that depend on another (a model on
 *     its weights, a cache on its model, a view on its tensor) keep it alive: free in any order.
 *   - Shapes are row-major, outermost first, as numpy prints them: a matrix of 10 rows of 64 elements
 *     is {10, 64}. (GGUF stores the same numbers in reverse.)
 *   - Sizes are bytes, times are milliseconds, rates are per second, unless a name says otherwise.
 *   - Nothing here prints, exits, aborts or calls back. One thread at a time may use one handle and
 *     what hangs on it; ml_interrupt_set() is the exception: it is safe in a signal handler.
 *
 * It is one file, long as it is, because it is read as a whole: by the compiler, by ffi.cdef, by people.
 * Between the two cdef marks this file is plain C99 that LuaJIT's ffi.cdef takes as it is: lua/ reads
 * it from here at run time, and `?name` at the prompt prints the comment above a declaration.
 */
#ifndef MOONLOOM_H
#define MOONLOOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)
// cdef:begin

/* ---- status and errors ------------------------------------------------------------------------ */

enum {
    ML_OK = 0,
    ML_E_ARGUMENT = -1,    /* the caller passed something that cannot be used */
    ML_E_IO = -2,          /* a file cannot be opened, read or written */
    ML_E_FORMAT = -3,      /* a file is damaged or lies about itself */
    ML_E_UNSUPPORTED = -4, /* well formed, but not something moonloom runs */
    ML_E_MEMORY = -5,      /* out of memory, or over a budget */
    ML_E_INTERRUPTED = -6, /* ml_interrupt_set(1) was seen; nothing was committed */
    ML_E_NOT_FOUND = -7    /* no tensor, key or token of that name */
};

/* The sentence about the last failure on this thread. Never NULL; valid until the next failing call. */
const char *ml_last_error(void);

/* Version of the library, "major.minor.patch". */
const char *ml_version(void);

/* Asks running calls to stop (on = 1) or clears the request (on = 0). Async-signal-safe. A call that
 * sees the request returns ML_E_INTERRUPTED between two layers, with the cache as it was before. */
void ml_interrupt_set(int on);
/* 1 while an interrupt is requested. */
int ml_interrupt_pending(void);

/* ---- handles ---------------------------------------------------------------------------------- */

typedef struct ml_weights ml_weights;     /* a model file, mapped */
typedef struct ml_model ml_model;         /* weights, checked and bound */
typedef struct ml_batch ml_batch;         /* rows of a forward pass, and its activations */
typedef struct ml_cache ml_cache;         /* keys and values of sequences */
typedef struct ml_saved ml_saved;         /* a saved session, mapped */
typedef struct ml_tokenizer ml_tokenizer; /* text to ids and back */
typedef struct ml_decoder ml_decoder;     /* ids to text, one by one */
typedef struct ml_tensor ml_tensor;       /* an array, or a view of one */
typedef struct ml_pool ml_pool;           /* memory that pages of a cache come from */

/* ---- the machine ------------------------------------------------------------------------------ */

/* Milliseconds of a monotonic clock. */
double ml_time_now(void);
/* Peak resident memory of this process in bytes, mapped files included (VmHWM). */
int64_t ml_memory_peak(void);
/* Resident memory of this process now, in bytes, mapped files included. */
int64_t ml_memory_resident(void);
/* XXH64 of `bytes` bytes (Cyan4973/xxHash, doc/xxhash_spec.md). */
uint64_t ml_hash(const void *data, int64_t bytes, uint64_t seed);
/* What the core holds memory for. */
enum {
    ML_MEMORY_MAPPED = 0,      /* weights in mapped files */
    ML_MEMORY_COPIED = 1,      /* weights copied into memory */
    ML_MEMORY_CACHE = 2,       /* keys and values: what all pools have from the system */
    ML_MEMORY_ACTIVATIONS = 3, /* of all batches */
    ML_MEMORY_LOGITS = 4,      /* of all batches */
    ML_MEMORY_SCRATCH = 5,     /* of all threads */
    ML_MEMORY_SKETCH = 6,      /* of all models: see ML_WANT_BEST */
    ML_MEMORY_PURPOSES = 7
};
/* Bytes that this process holds for a purpose (ML_MEMORY_...), and the most it ever held. */
int ml_memory_use(int purpose, int64_t *bytes, int64_t *peak);
/* How often the core has asked for memory since it was loaded. Decoding a token does not, but where a new page of the
 * cache begins. */
int64_t ml_memory_allocations(void);
/* Name of the CPU as it tells it itself. */
const char *ml_cpu_name(void);
/* Instruction set of the kernels in use: "scalar", "avx2", "avx512", "amx" (Intel's matrix unit, AVX-512 beside it) or
 * "neon". Chosen once from what the machine promises, or by the environment variable MOONLOOM_ISA. */
const char *ml_isa_name(void);
/* Switches the kernels to `name`, or back to the best one for "auto". For tests and comparisons.
 * ML_E_UNSUPPORTED if the machine does not promise it, ML_E_ARGUMENT for an unknown name. */
int ml_isa_set(const char *name);
/* Precision of products on a matrix unit, those of attention with bf16 pages included: "bf16" (the default) or "exact".
 * Both take 8 rows of a batch or more to it; "bf16" rounds activations to bf16, and weights that have more bits (MXFP4
 * and bf16 have not), as gpt-oss was trained; "exact" splits both into two parts and meets the tolerances of the other
 * instruction sets, at about half the speed for MXFP4 and a third for others. Fewer rows than 8 of one matrix, such as
 * decoding, go another way (int16 with scales): on such a machine what a row gives depends in its last bits (2^-9 of an
 * activation under "bf16") on whether its batch has that many. It never depends on the number of threads. Weights in
 * f32 stay f32. Without a matrix unit both give the same, and rows do not depend on their batch. To be called between
 * passes. ML_E_ARGUMENT for another name. */
int ml_precision_set(const char *name);
/* The precision in use, "bf16" or "exact". */
const char *ml_precision_name(void);
/* Sets the number of worker threads, the caller included; 0 means the physical cores this process may
 * use. At most 256. */
int ml_threads_set(int count);
/* Number of threads that the next call will use. */
int ml_threads_count(void);
/* Where memory and threads go on a machine with several memory nodes (sockets). "spread": memory that is touched from
 * now on is dealt out over all nodes, and the worker threads run on the nodes in turn, as many on each; "off" (the
 * default): both as the system likes. Call it before anything is loaded: weights are spread if they are copied, or not
 * yet in the system's memory. ML_E_ARGUMENT for another word, ML_E_UNSUPPORTED where the system forbids it. */
int ml_numa_set(const char *policy);
/* The policy in use. */
const char *ml_numa_policy(void);
/* Nodes with cores that this process may use. */
int ml_numa_nodes(void);

/* ---- dtypes ----------------------------------------------------------------------------------- */

/* Element types. The numbers are GGUF's (ggml-org/ggml docs/gguf.md). */
enum {
    ML_F32 = 0,
    ML_F16 = 1,
    ML_Q4_0 = 2,
    ML_Q4_1 = 3,
    ML_Q5_0 = 6,
    ML_Q5_1 = 7,
    ML_Q8_0 = 8,
    ML_Q2_K = 10,
    ML_Q3_K = 11,
    ML_Q4_K = 12,
    ML_Q5_K = 13,
    ML_Q6_K = 14,
    ML_IQ4_NL = 20,
    ML_IQ4_XS = 23,
    ML_I8 = 24,
    ML_I16 = 25,
    ML_I32 = 26,
    ML_I64 = 27,
    ML_F64 = 28,
    ML_BF16 = 30,
    ML_MXFP4 = 39,
    ML_DTYPE_LIMIT = 40
};

/* Name of a dtype in lower case ("f32", "q8_0", "mxfp4"), or NULL for a number that is none. */
const char *ml_dtype_name(int dtype);
/* The dtype of that name, or -1. */
int ml_dtype_from_name(const char *name);
/* Elements in one block (1 for plain types), or 0 for a number that is no dtype. */
int64_t ml_dtype_block(int dtype);
/* Bytes of one block, or 0. */
int64_t ml_dtype_bytes(int dtype);

/* ---- weights: a model file, mapped ------------------------------------------------------------ */

/* Kinds of metadata values. */
enum { ML_META_INT = 0, ML_META_FLOAT = 1, ML_META_BOOL = 2, ML_META_STRING = 3, ML_META_ARRAY = 4 };

typedef struct ml_tensor_info {
    const char *name; /* owned by the weights */
    const char *type; /* name of the dtype; known too for ggml's types that moonloom cannot compute with */
    int dtype;        /* ML_F32 ...; ml_dtype_block() is 0 for those others */
    int ndim;         /* 1..4 */
    int64_t shape[4]; /* outermost first; unused ones are 1 */
    int64_t bytes;    /* size of the data */
    int64_t offset;   /* where the data starts in its file */
    int file;         /* which of the split files, from 0 */
} ml_tensor_info;

/* Maps the model file at `path` (GGUF v2 or v3; any part of a split file opens the whole). Every length,
 * offset and count is checked against the file before use. Nothing is copied: see ml_weights_copy(). */
int ml_weights_open(const char *path, ml_weights **out);
/* Releases one reference; the mapping goes with the last model, tensor or tokenizer that uses it. */
void ml_weights_free(ml_weights *weights);
/* Milliseconds that opening took: out[0] header, out[1] metadata, out[2] tensor infos. */
void ml_weights_timings(const ml_weights *weights, double out[3]);
/* Bytes of all files together. */
int64_t ml_weights_bytes(const ml_weights *weights);
/* Maps ahead, in a thread of its own, what the system holds of the files in huge pages, so that the first pass over the
 * weights does not stop for every one of them. Nothing is read from a disk, and where the system cannot do it, nothing
 * happens. It ends by itself, or with the weights or ml_weights_copy(). */
void ml_weights_prefault(ml_weights *weights);
/* Copies the next part (up to 32 MiB) of the files into memory of this process, under huge pages where the kernel gives
 * them, in the place of the mapping: whatever points into the weights stays valid, and the file's own pages are
 * released part by part. `copied` receives the bytes that are copied so far; all is done at ml_weights_bytes(). Nobody
 * may be using the weights meanwhile. A failure leaves them readable. Linux only. */
int ml_weights_copy(ml_weights *weights, int64_t *copied);
/* Number of tensors. */
int64_t ml_weights_count(const ml_weights *weights);
/* Describes tensor `index`, 0 <= index < ml_weights_count(). */
int ml_weights_info(const ml_weights *weights, int64_t index, ml_tensor_info *out);
/* Index of the tensor of that name. ML_E_NOT_FOUND names it. */
int ml_weights_find(const ml_weights *weights, const char *name, int64_t *index);
/* A read-only view of the data of tensor `index` where it lies in the mapped file; free it with ml_tensor_free().
 * ML_E_UNSUPPORTED for the types that moonloom cannot compute with. */
int ml_weights_tensor(ml_weights *weights, int64_t index, ml_tensor **out);

/* Number of metadata keys. */
int64_t ml_meta_count(const ml_weights *weights);
/* The key at `index`, or NULL past the end. Owned by the weights. */
const char *ml_meta_key(const ml_weights *weights, int64_t index);
/* Kind (ML_META_...) of the value of `key`; ML_E_NOT_FOUND if there is none. For an array, `kind` is
 * ML_META_ARRAY, `item` the kind of its items and `count` their number; else item = kind, count = 1. */
int ml_meta_kind(const ml_weights *weights, const char *key, int *kind, int *item, int64_t *count);
/* Item `index` (0 for a plain value) as an integer; ML_E_ARGUMENT if it is of another kind. */
int ml_meta_int(const ml_weights *weights, const char *key, int64_t index, int64_t *out);
/* Item `index` (0 for a plain value) as a double; integers are converted. */
int ml_meta_float(const ml_weights *weights, const char *key, int64_t index, double *out);
/* Item `index` (0 for a plain value) as 0 or 1; ML_E_ARGUMENT if it is of another kind. */
int ml_meta_bool(const ml_weights *weights, const char *key, int64_t index, int *out);
/* Item `index` (0 for a plain value) as bytes in the mapped file: not zero-terminated, owned by the weights. */
int ml_meta_string(const ml_weights *weights, const char *key, int64_t index, const char **out, int64_t *bytes);

/* ---- model ------------------------------------------------------------------------------------ */

/* How RoPE is scaled to a longer context. */
enum { ML_ROPE_NONE, ML_ROPE_LINEAR, ML_ROPE_YARN, ML_ROPE_LONGROPE };

typedef struct ml_config {
    char architecture[32];  /* general.architecture: one of core/model/architectures.c */
    int32_t layers;         /* L */
    int32_t width;          /* D, size of the residual stream */
    int32_t heads;          /* query heads */
    int32_t kv_heads;       /* key/value heads; heads / kv_heads queries share one (GQA) */
    int32_t head_dim;       /* elements of a head */
    int32_t rope_dims;      /* elements of a head that RoPE turns */
    int32_t ffn_width;      /* inner width of the feed-forward block, or of one expert */
    int32_t experts;        /* experts a layer; 0 for a dense model */
    int32_t experts_used;   /* experts a token; 0 for a dense model */
    int32_t window;         /* tokens that a sliding-window layer sees; 0 if there is none */
    int32_t window_period;  /* layers after which windows repeat; 0 if there are none. See ml_model_window() */
    int32_t context;        /* trained context length in tokens */
    int32_t rope_scaling;   /* ML_ROPE_... */
    int32_t rope_original;  /* YaRN and LongRoPE: context before scaling; 0 without */
    int64_t vocabulary;     /* tokens */
    double norm_epsilon;    /* of RMSNorm */
    double rope_base;       /* theta */
    double rope_factor;     /* factor of the context; 1 without */
    double rope_magnitude;  /* factor of cos and sin; 1 if nothing asks for another */
    double yarn_beta_fast;  /* YaRN: rotations above which a frequency stays */
    double yarn_beta_slow;  /* YaRN: rotations below which it is divided by the factor */
    double yarn_ext_factor; /* YaRN: how much of staying is granted, usually 1 */
} ml_config;

/* Builds a model on opened weights. A missing tensor, a wrong shape, and a tensor that the architecture does not have
 * are refused with its name. The weights stay mapped. */
int ml_model_create(ml_weights *weights, ml_model **out);
void ml_model_free(ml_model *model);
/* All sizes of the model. */
void ml_model_config(const ml_model *model, ml_config *out);
/* Tokens that `layer` sees, the newest included; 0 if it sees all, or if there is no such layer. */
int64_t ml_model_window(const ml_model *model, int32_t layer);
/* Bytes of weights that decoding one token reads: every matrix once, experts_used experts a layer, one row
 * of the embedding. */
int64_t ml_model_bytes_per_token(const ml_model *model);

/* ---- forward ---------------------------------------------------------------------------------- */

/* What ml_batch_tensor() shows, R being the number of rows. */
enum {
    ML_VIEW_RESIDUAL = 0,       /* f32 {R, width}: the residual stream; may be changed between steps */
    ML_VIEW_ROUTER_LOGITS = 1,  /* f32 {R, experts}: after ml_forward_router() */
    ML_VIEW_EXPERT_IDS = 2,     /* i32 {R, experts_used}: best first; may be changed before the experts run */
    ML_VIEW_EXPERT_WEIGHTS = 3, /* f32 {R, experts_used}: softmax over the chosen; may be changed likewise */
    ML_VIEW_LOGITS = 4          /* f32 {rows that want something, vocabulary}: after ml_forward_head(), if one of them
                                 * wants logits */
};

/* Creates a batch of at most `capacity` rows (1..4096), with the activations of a forward pass. */
int ml_batch_create(ml_model *model, int64_t capacity, ml_batch **out);
void ml_batch_free(ml_batch *batch);
/* Takes all rows out. A pass under way is void, and what the last one left is not shown any more. */
void ml_batch_clear(ml_batch *batch);
/* Number of rows. */
int64_t ml_batch_rows(const ml_batch *batch);
/* What a row wants of the head. ML_WANT_BEST: the token with the largest logit and that logit alone, the same to the
 * bit as among all. If no row of a pass wants all logits, they are found by a sketch of the head in 4 bits, which its
 * model makes at the first such pass (ML_MEMORY_SKETCH): rows that cannot hold the largest are not read. The sketch is
 * random (core/model/sketch.h), so that this misses the best with a probability below 2^-50 a token. */
enum { ML_WANT_NOTHING = 0, ML_WANT_LOGITS = 1, ML_WANT_BEST = 2 };

/* Adds a row: `token` at `position` of `sequence`, which wants ML_WANT_... Rows of one sequence must come in order and
 * start at its length; rows of different sequences may be mixed in any order. */
int ml_batch_add(ml_batch *batch, int32_t token, int64_t position, int32_t sequence, int want);
/* A view of the run state (ML_VIEW_...) without a copy; free it with ml_tensor_free(). It shows the rows of
 * the last ml_forward_embed(); one of logits must not be read after the next. */
int ml_batch_tensor(ml_batch *batch, int view, ml_tensor **out);
/* Logits of row `row` after ml_forward_head(): `vocabulary` floats owned by the batch, until its next
 * forward. ML_E_ARGUMENT if the row did not ask for logits. */
int ml_batch_logits(ml_batch *batch, int64_t row, const float **out);
/* The token with the largest logit of row `row` (ties: the lowest) after ml_forward_head(). ML_E_ARGUMENT if the row
 * did not ask for the best. */
int ml_batch_best(const ml_batch *batch, int64_t row, int32_t *id, float *logit);

/* The whole forward pass: embed, every layer, head, commit. On any failure the sequences are as before. */
int ml_forward(ml_cache *cache, ml_batch *batch);

/* A forward pass in steps: embed, then layers (each as a whole, or as attention, router, experts), head, commit.
 * A step may be left out or repeated; keys and values of a layer left out are zero for these rows. Nothing
 * counts until ml_forward_commit(). */

/* Checks the rows, reserves their pages and fills the residual stream with the token embeddings. */
int ml_forward_embed(ml_cache *cache, ml_batch *batch);
/* Layer `layer` as a whole: attention, router, experts. */
int ml_forward_layer(ml_cache *cache, ml_batch *batch, int32_t layer);
/* Norm, q k v, RoPE, append to the cache, attention, output projection, added to the residual stream. */
int ml_forward_attention(ml_cache *cache, ml_batch *batch, int32_t layer);
/* Norm and router: chooses the experts of each row. Does nothing in a dense model. */
int ml_forward_router(ml_cache *cache, ml_batch *batch, int32_t layer);
/* The chosen experts (or the dense feed-forward block), added to the residual stream. Needs
 * ml_forward_router() of the same layer just before. */
int ml_forward_experts(ml_cache *cache, ml_batch *batch, int32_t layer);
/* Final norm and logits of the rows that want them, from the residual stream as it is now. */
int ml_forward_head(ml_cache *cache, ml_batch *batch);
/* Adds the rows to their sequences. */
int ml_forward_commit(ml_cache *cache, ml_batch *batch);

/* What a forward pass read and multiplied. */
typedef struct ml_work {
    int64_t weight_bytes; /* of the matrices that were touched, each once, however many rows it served */
    int64_t cache_bytes;  /* keys and values that attention read, once for each row and KV head */
    double operations;    /* of matrices and attention; a multiplication and an addition are two */
} ml_work;

/* The work of the pass that the last ml_forward_embed() began, so far. */
void ml_batch_work(const ml_batch *batch, ml_work *out);

/* ---- logits ----------------------------------------------------------------------------------- */

/* The `k` largest of `n` logits, best first (ties: the lower id first; NaN last), 1 <= k <= n. ML_E_MEMORY is possible
 * only where k is over 512. */
int ml_logits_topk(const float *logits, int64_t n, int64_t k, int32_t *ids, float *values);
/* log(sum(exp(logits))) over `n` logits, accumulated in double: log-probability of i is logits[i] - this. */
int ml_logits_logsumexp(const float *logits, int64_t n, double *out);
/* Sum of the weights exp(scale * logit - top) over all ids but the `skipped` ones in `skip` (ascending), in double.
 * top: the largest scale * logit, or anything near it; scale > 0 is 1 / temperature. */
int ml_logits_mass(const float *logits, int64_t n, double scale, double top, const int32_t *skip, int64_t skipped,
                   double *out);
/* The id at which the running sum of the same weights, in the order of the ids, first exceeds `target`: with a target
 * of u times their mass, u uniform in [0, 1), a sample. ML_E_NOT_FOUND if no id has any weight. */
int ml_logits_pick(const float *logits, int64_t n, double scale, double top, const int32_t *skip, int64_t skipped,
                   double target, int32_t *id);

/* ---- KV cache --------------------------------------------------------------------------------- */

/* Creates an empty cache for `model` that stores keys and values as `dtype`: ML_BF16 or ML_F32. It holds
 * any number of sequences in pages of 64 tokens of one layer, shared copy-on-write. */
int ml_cache_create(ml_model *model, int dtype, ml_cache **out);
void ml_cache_free(ml_cache *cache);
/* The dtype of its keys and values. */
int ml_cache_dtype(const ml_cache *cache);
/* Bytes of memory that all pages take. */
int64_t ml_cache_bytes(const ml_cache *cache);

/* Starts an empty sequence; its number is below 2^31 and may be reused after ml_sequence_free(). */
int ml_sequence_create(ml_cache *cache, int32_t *sequence);
/* Starts a sequence that shares the first `position` tokens of `sequence`. No page is copied until one of
 * the two writes to it. */
int ml_sequence_fork(ml_cache *cache, int32_t sequence, int64_t position, int32_t *out);
/* Forgets everything from `position` on: 0 <= position <= length. Exact at any position, in sliding-window
 * layers too. Full pages that are dropped are kept as prefixes (ml_cache_keep). */
int ml_sequence_rewind(ml_cache *cache, int32_t sequence, int64_t position);
/* Rewinds without keeping anything as a prefix: for tokens that were only tried, and nobody will ask for again. */
int ml_sequence_forget(ml_cache *cache, int32_t sequence, int64_t position);
/* Ends a sequence and releases its pages. */
int ml_sequence_free(ml_cache *cache, int32_t sequence);
/* Tokens committed to the sequence, or ML_E_ARGUMENT. */
int64_t ml_sequence_length(const ml_cache *cache, int32_t sequence);
/* The ids of these tokens. Owned by the cache, until the sequence changes. NULL if there is no such sequence, or it is
 * empty. */
const int32_t *ml_sequence_ids(const ml_cache *cache, int32_t sequence);
/* How many of its tokens, from the first on, are as if computed at once with plain pages: 0 if any page is quantised.
 */
int64_t ml_sequence_sound(const ml_cache *cache, int32_t sequence);

/* Prefixes: pages that sequences leave behind when they are freed or rewound stay known by their tokens, up to `bytes`
 * of pages that no sequence shows, in memory and on disk; then the least recently used go. 0 (as in a new cache) turns
 * this off. */
int ml_cache_keep(ml_cache *cache, int64_t bytes);
/* Bytes of memory of pages that only prefixes show; ml_cache_bytes() counts them too. */
int64_t ml_cache_kept(const ml_cache *cache);
/* Before `count` ids are fed to a sequence: shows as many of them as stand in another sequence or among the prefixes
 * behind the same tokens, by sharing pages copy-on-write, and `adopted` receives how many; feed the rest. Only what
 * ml_forward() computed with the instruction set in use is taken (not a pass in steps, which may have been changed), so
 * with plain pages the result is that of feeding, to the bit. Leave the last token out of `count` if its logits are
 * wanted. Nothing is adopted where prefixes are off. */
int ml_cache_adopt(ml_cache *cache, int32_t sequence, const int32_t *ids, int64_t count, int64_t *adopted);

/* The kept prefixes as branches, the most recently used first: the ids of branch `index` (0, 1, ...), from the first
 * token on, go to ids {capacity} as far as they fit. Returns how many there are; 0 where there is no such branch. */
int64_t ml_cache_kept_branch(const ml_cache *cache, int64_t index, int32_t *ids, int64_t capacity);

/* ---- KV cache: policy and places -------------------------------------------------------------- */

/* What becomes of pages as a sequence goes on. Zeros mean: all stays plain. */
typedef struct ml_policy {
    int64_t hot_tokens;        /* the newest tokens of a sequence that stay plain */
    int64_t first_tokens;      /* the first tokens that do (attention sinks) */
    const uint8_t *key_bits;   /* {layers, kv_heads}: 16 (plain), 8 or 4; NULL: all 16 */
    const uint8_t *value_bits; /* likewise */
    int rotate;                /* turn keys (ml_warm_rotate) before they are quantised */
} ml_policy;

/* Sets the policy of a cache; everything is copied. It may change at any time: ml_cache_settle() applies it from then
 * on, to pages that are quantised already only where that makes them smaller, wherever they lie (those on disk are read
 * and written anew, which takes its time). These are quantised from what they are then: a little further from the plain
 * numbers than with the fewer bits from the start. Pages that only prefixes show follow when a sequence adopts them.
 * `rotate` can only change while no page is quantised. */
int ml_cache_policy(ml_cache *cache, const ml_policy *policy);
/* The policy in force; `out` points into `bits` {2, layers, kv_heads}, which receives those of keys, then of values.
 * Returns 0 if there is none. */
int ml_cache_read_policy(const ml_cache *cache, ml_policy *out, uint8_t *bits);
/* Quantises the full pages that the policy no longer keeps plain, in place for all sequences that share them; on all
 * threads. To be called after ml_forward(), and after a new policy. Pages with infinite or NaN numbers stay plain, and
 * so do all when memory for that runs out. A sequence that goes on in the middle of a quantised page gets a plain copy
 * of it; its old tokens keep their codes when that is quantised again, so under one policy nothing is quantised twice.
 * Then puts pages down as the places say. What a page becomes does not depend on where it lies: pages that are down
 * are brought up for that. ML_E_IO if the spill file fails: pages stay in memory from then on, until the places are set
 * again. ML_E_INTERRUPTED while pages come up: the next call goes on. */
int ml_cache_settle(ml_cache *cache);
/* How many tokens one pass may add to the sequence and give each the numbers that it gets in a pass of its own, with
 * ml_cache_settle() after every pass: at least 1; INT64_MAX where the policy quantises nothing. A page that a settle
 * between two tokens would quantise is still plain for all rows of a pass, so the pass has to end where one is due.
 * Places do not count: they move bytes and change no number. Pages that another sequence shares and has quantised first
 * are as they are. ML_E_ARGUMENT if there is no such sequence. */
int64_t ml_sequence_certain(const ml_cache *cache, int32_t sequence);

/* The ladder: where a page lies, from the top down. */
enum {
    ML_LEVEL_HOT = 0,  /* plain, in memory */
    ML_LEVEL_WARM = 1, /* quantised, in memory */
    ML_LEVEL_COLD = 2, /* the bytes of either, packed, in memory */
    ML_LEVEL_DISK = 3, /* the same in the spill file */
    ML_LEVELS = 4
};

/* Where full pages go. Nothing of it changes a number: packing is without loss. Zeros mean: all stays in memory,
 * without a limit. */
typedef struct ml_places {
    int64_t memory;    /* bytes that the cache may have from the system for pages, cold ones included; 0: no limit */
    int64_t disk;      /* bytes of pages in the spill file; 0: no limit */
    const char *spill; /* the folder of the spill file, or a path where nothing is yet; NULL: no disk */
    int window;        /* what becomes of pages that left the window of their layer: ML_LEVEL_COLD, ML_LEVEL_DISK, or
                        * ML_LEVEL_HOT: they stay in memory as they are */
    int evict; /* when nothing can go down any more: 1 gives up the sequence that was used least recently (its calls but
                * ml_sequence_free() return ML_E_MEMORY then), 0 fails with ML_E_MEMORY */
} ml_places;

/* Sets the places of a cache; everything is copied. They may change at any time; ml_cache_settle() applies them from
 * then on. Above the memory budget, kept prefixes go to the disk first, or are forgotten where there is none
 * (those on disk, when that is full); then full pages go to the disk (cold ones, which nobody reads, before others), or
 * become cold where there is none: those that passes read least recently first, and of these the oldest tokens. What
 * attention needs comes back to stay as far as the budget goes; the rest passes through a staging area of up to 1/8 of
 * the budget, unpacked ahead by a thread. A budget that is below what the cache has makes ml_cache_settle() put pages
 * down and move the rest together: while they move, up to what it had and the budget are taken. It returns ML_E_MEMORY
 * once if they do not fit. ML_E_IO if the spill file cannot be made, ML_E_MEMORY if the budget is too small for the
 * staging: all is as before then. */
int ml_cache_places(ml_cache *cache, const ml_places *places);

/* ---- levels: where pages of the cache lie ----------------------------------------------------- */

typedef struct ml_level {
    int64_t pages; /* that lie there, each once, however many sequences show it */
    int64_t bytes; /* that they take there */
    int64_t whole; /* that they take where attention can read them: whole / bytes is the ratio of packing */
    int64_t hits;  /* since the cache was made, how often attention needed a page that lay there: once a tile of rows */
    int64_t demoted;  /* how often a page came to lie there (cold, disk) or was quantised (warm) */
    int64_t promoted; /* how often a page came back from there into memory, for good or for one pass */
} ml_level;

/* The levels of one layer, or of all (layer -1), to out {ML_LEVELS}. */
int ml_cache_levels(const ml_cache *cache, int32_t layer, ml_level *out);
/* How many of a sequence's tokens lie at each level in `layer`, to tokens {ML_LEVELS}. */
int ml_sequence_levels(const ml_cache *cache, int32_t sequence, int32_t layer, int64_t *tokens);

/* ---- saved sessions --------------------------------------------------------------------------- */

/* Which model and tokenizer a session is of: hashes over tensors (names, types, shapes, a sample of the bytes), sizes
 * and tokens. Where the files lie does not matter. */
typedef struct ml_identity {
    uint64_t model[2], tokenizer[2];
} ml_identity;
void ml_identity_of(const ml_model *model, const ml_tokenizer *tokenizer, ml_identity *out);

/* Saves a sequence with all its pages, and `text`: what its tokens stand for, for people. The file appears at `path`
 * whole or not at all, whatever happens; until then it is written beside it, as `path`.part. A failure (ML_E_IO,
 * ML_E_MEMORY, ML_E_INTERRUPTED) leaves the sequence, and what was at `path`, as they were. */
int ml_sequence_save(ml_cache *cache, int32_t sequence, const ml_identity *identity, const char *text, int64_t bytes,
                     const char *path);

/* The `content` that the saved session would have: a hash of model, tokenizer, ids and dtype of the cache. */
int ml_sequence_content(const ml_cache *cache, int32_t sequence, const ml_identity *identity, uint64_t out[2]);

typedef struct ml_saved_info {
    int64_t bytes;        /* of the file */
    int64_t tokens;       /* ids in it */
    int64_t sound;        /* of them, from the first on, what ml_cache_adopt() may take over: see there */
    int64_t text_bytes;   /* of the text */
    int64_t page_count;   /* pages of 64 tokens of one layer */
    int64_t quantised;    /* of them, those that are not plain */
    int64_t page_bytes;   /* of the pages in memory */
    int64_t packed_bytes; /* of the same in the file */
    int64_t created;      /* seconds since 1970 */
    int32_t dtype;        /* of the cache: ML_BF16 or ML_F32 */
    int32_t layers;       /* of the model */
    int32_t policy;       /* 1: there was a policy for its pages, see ml_saved_policy() */
    uint64_t content[2];  /* see ml_sequence_content() */
    ml_identity identity;
    char version[16];      /* of the moonloom that saved it */
    char isa[16];          /* its instruction set, or "exact": see ml_precision_set() */
    char architecture[32]; /* of the model */
    char name[128];        /* of the model, as its file says; may be cut short */
    char file[512];        /* the model file; may be cut short */
} ml_saved_info;

/* Maps the saved session at `path` and checks header, ids, text and index; pages are checked when they are read. What
 * is damaged is told by ml_saved_damage(); only a file whose ids are gone, or that is none, is refused. */
int ml_saved_open(const char *path, ml_saved **out);
void ml_saved_free(ml_saved *saved);
void ml_saved_describe(const ml_saved *saved, ml_saved_info *out);
/* How many of its tokens a session may take over as if it had computed them: `sound` with the instruction set and
 * version that saved it, else 0. */
int64_t ml_saved_sound(const ml_saved *saved);
/* The `tokens` ids and `text_bytes` bytes of text of a saved session, in the mapped file. The text is NULL where it is
 * damaged. */
const int32_t *ml_saved_ids(const ml_saved *saved);
const char *ml_saved_text(const ml_saved *saved);
/* A sentence about what is damaged, or NULL. */
const char *ml_saved_damage(const ml_saved *saved);
/* Reads all pages, too. ML_E_FORMAT names the part that is damaged: for a page, its layer and place in the file. */
int ml_saved_check(ml_saved *saved);
/* ML_OK if it is of that model and tokenizer; else ML_E_UNSUPPORTED and a sentence. */
int ml_saved_fits(const ml_saved *saved, const ml_identity *identity);
/* Gives the cache the policy that the session was saved under, if there was one (*set = 1). */
int ml_saved_policy(const ml_saved *saved, ml_cache *cache, int *set);
/* Fills the empty `sequence` with the first `tokens` tokens. It must fit (ml_saved_fits) and the cache be of its dtype.
 * ML_E_FORMAT names what is damaged, ML_E_UNSUPPORTED a token that the vocabulary does not have; the sequence is empty
 * then. */
int ml_saved_load(ml_saved *saved, ml_cache *cache, int32_t sequence, int64_t tokens);

/* ---- tokenizer -------------------------------------------------------------------------------- */

/* Flags of ml_tokenizer_encode(). */
enum {
    ML_TOKENIZE_SPECIAL = 1, /* text such as <|start|> becomes the special token; without it, plain text */
    ML_TOKENIZE_BOS = 2      /* put the begin-of-text token first where the file asks for it, never twice; where the
                              * file says nothing, SentencePiece and llama-bpe want it */
};

/* Builds the tokenizer for the vocabulary of `weights`: byte-level BPE with the pre-tokenizer gpt-4o, gpt-2,
 * llama-bpe or qwen2, or SentencePiece BPE. It copies what it needs: the weights may go. ML_E_NOT_FOUND if they have no
 * vocabulary. */
int ml_tokenizer_create(ml_weights *weights, ml_tokenizer **out);
void ml_tokenizer_free(ml_tokenizer *tokenizer);
/* Number of tokens in the vocabulary. */
int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer);
/* Encodes `bytes` bytes of UTF-8, below 2^31, into at most `capacity` ids. `count` receives the number
 * needed, also when it is over `capacity`: then call again. Bytes that are no UTF-8 are kept: each run of them is
 * a piece of its own. Special names are found leftmost first, then longest; user-defined tokens always, control
 * tokens with ML_TOKENIZE_SPECIAL. SentencePiece puts a space in front of a text and of what follows a special
 * token (unless the file says not to), and takes U+2581 for a space. */
int ml_tokenizer_encode(const ml_tokenizer *tokenizer, const char *text, int64_t bytes, int flags, int32_t *ids,
                        int64_t capacity, int64_t *count);
/* The bytes that `id` stands for, perhaps part of a character; special tokens give their name. Owned by the
 * tokenizer. */
int ml_tokenizer_piece(const ml_tokenizer *tokenizer, int32_t id, const char **bytes, int64_t *count);
/* Writes the bytes of `count` ids to `text` (at most `capacity`); `bytes` receives the number needed.
 * The exact inverse of encode: the space that SentencePiece put in front is taken away again. */
int ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count, char *text, int64_t capacity,
                        int64_t *bytes);
/* 1 if `id` is a special (control or unknown) token, 0 if not or out of range. A user-defined token that is
 * spelled <|like this|> counts as control. */
int ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id);
/* 1 if generation ends at `id`: the file's end-of-sequence, end-of-turn and end-of-message tokens, and
 * <|return|>, <|call|>, <|endoftext|>, <|eot_id|> and <|im_end|> where the vocabulary has them. Not harmony's
 * <|end|>, whatever the file says: the turn goes on after it. */
int ml_tokenizer_is_end(const ml_tokenizer *tokenizer, int32_t id);
/* Id of the token that stands for exactly the bytes of `text`, as ml_tokenizer_piece() gives them. If several
 * do, the one that plain text becomes. ML_E_NOT_FOUND if there is none. */
int ml_tokenizer_find(const ml_tokenizer *tokenizer, const char *text, int32_t *id);

/* Streaming decoder: takes ids one by one and gives out whole UTF-8 characters only. It starts where a text
 * starts; to go on in the middle of one, push the ids before it first and drop what comes out. */
int ml_decoder_create(const ml_tokenizer *tokenizer, ml_decoder **out);
void ml_decoder_free(ml_decoder *decoder);
/* Adds `id`; `bytes` receives what is complete now (perhaps nothing). Owned by the decoder, until the
 * next call. What can never become a character comes out as U+FFFD, one for each maximal subpart (Unicode
 * Standard, section 3.9). */
int ml_decoder_push(ml_decoder *decoder, int32_t id, const char **bytes, int64_t *count);
/* Gives out what is left (an unfinished character as U+FFFD) and starts anew. */
int ml_decoder_flush(ml_decoder *decoder, const char **bytes, int64_t *count);

/* ---- tensors ---------------------------------------------------------------------------------- */

/* Tensors have 1 to 4 dimensions, numbered from 0, and any dtype. A view shares the memory of what it was made from and
 * keeps it alive; writing through one is seen by all. Block dtypes (q8_0, mxfp4, ...) can be read, viewed by whole
 * blocks and converted, not written in place. Arithmetic is in f32: operands of other dtypes are converted, and results
 * are new, packed f32 tensors unless it says otherwise. "Rows" run along the last dimension. */

/* A new tensor of zeros. ML_E_MEMORY if there is no room for it. */
int ml_tensor_create(int dtype, int ndim, const int64_t *shape, ml_tensor **out);
/* A new tensor with a copy of `data`: packed elements of `dtype`, row-major. */
int ml_tensor_from(const void *data, int dtype, int ndim, const int64_t *shape, ml_tensor **out);
void ml_tensor_free(ml_tensor *tensor);
int ml_tensor_dtype(const ml_tensor *tensor);
/* Number of dimensions. */
int ml_tensor_ndim(const ml_tensor *tensor);
/* Elements along dimension `dim`; 1 for a dimension that is not there. */
int64_t ml_tensor_shape(const ml_tensor *tensor, int dim);
/* Bytes from one index of `dim` to the next; 0 inside rows of a block dtype. */
int64_t ml_tensor_stride(const ml_tensor *tensor, int dim);
/* The first element, as it is stored. Owned by the tensor. */
void *ml_tensor_data(ml_tensor *tensor);
/* 1 if the elements lie packed in row-major order. */
int ml_tensor_contiguous(const ml_tensor *tensor);
/* 1 if elements may be set: not for views into a mapped file, nor for block dtypes. */
int ml_tensor_writable(const ml_tensor *tensor);
/* The element at index[0..ndim), each from 0. */
int ml_tensor_get(const ml_tensor *tensor, const int64_t *index, double *out);
/* Sets it, rounded to the dtype (integers: towards zero, clamped to their range; NaN gives 0). */
int ml_tensor_set(ml_tensor *tensor, const int64_t *index, double value);

/* View of the indices [start, stop) along `dim`. */
int ml_tensor_slice(ml_tensor *tensor, int dim, int64_t start, int64_t stop, ml_tensor **out);
/* View of one index along `dim`, which goes away; of a tensor of one dimension it leaves {1}. */
int ml_tensor_select(ml_tensor *tensor, int dim, int64_t index, ml_tensor **out);
/* View with two dimensions exchanged. */
int ml_tensor_transpose(ml_tensor *tensor, int a, int b, ml_tensor **out);
/* View of the same elements in another shape; one entry may be -1: whatever is left. The tensor must be contiguous. */
int ml_tensor_reshape(ml_tensor *tensor, int ndim, const int64_t *shape, ml_tensor **out);

/* A packed copy as `dtype`. Quantising to q8_0, q4_0 (scale from the largest element of a block, as ggml's reference)
 * and mxfp4 (OCP Microscaling 1.0: scale 2^(floor(log2(largest)) - 2), elements to nearest even, saturating) is
 * supported, to other block dtypes not. */
int ml_tensor_convert(const ml_tensor *tensor, int dtype, ml_tensor **out);
/* Copies the elements of `from` into `to`, converted. Their shapes must be equal, or `from` has one element, or as many
 * as a row of `to`: then every row becomes it. The two must not overlap unless they are the same. */
int ml_tensor_copy(const ml_tensor *from, ml_tensor *to);
/* Fills with uniform numbers of [low, high), or normal ones; the same for a seed on every machine and thread count. */
int ml_tensor_fill_uniform(ml_tensor *tensor, double low, double high, uint64_t seed);
int ml_tensor_fill_normal(ml_tensor *tensor, double mean, double deviation, uint64_t seed);

/* Element-wise operations of ml_tensor_binary(). */
enum { ML_ADD = 0, ML_SUBTRACT = 1, ML_MULTIPLY = 2, ML_DIVIDE = 3 };
/* a op b. The shapes must be equal, or one of the two has one element, or as many as a row of the other. */
int ml_tensor_binary(const ml_tensor *a, const ml_tensor *b, int operation, ml_tensor **out);
/* to += factor * x, in place: `to` is a writable f32 tensor whose rows lie packed; x of the same shape, or one row that
 * is added to every row. Made for steering: a vector added to the residual stream. */
int ml_tensor_add_scaled(ml_tensor *to, const ml_tensor *x, double factor);
/* factor * a + offset. */
int ml_tensor_scale(const ml_tensor *a, double factor, double offset, ml_tensor **out);
/* {m, k} x {k, n} -> {m, n}; {b, m, k} x {b, k, n} -> {b, m, n}; {b, m, k} x {k, n} -> {b, m, n}. */
int ml_tensor_matmul(const ml_tensor *a, const ml_tensor *b, ml_tensor **out);
/* x {n, k} times the transpose of w {rows, k}, on the stored blocks of w, plus bias {rows} (or NULL) -> {n, rows}. */
int ml_tensor_linear(const ml_tensor *x, const ml_tensor *w, const ml_tensor *bias, ml_tensor **out);
/* exp(x) / sum(exp(x)) of each row. */
int ml_tensor_softmax(const ml_tensor *x, ml_tensor **out);
/* x - log(sum(exp(x))) of each row. */
int ml_tensor_log_softmax(const ml_tensor *x, ml_tensor **out);
/* x * weight / sqrt(mean(x^2) + epsilon) of each row (RMSNorm, arXiv:1910.07467); weight {row} or NULL. */
int ml_tensor_rms_norm(const ml_tensor *x, const ml_tensor *weight, double epsilon, ml_tensor **out);
/* gate * sigmoid(gate) * up; clamped = 1: as in gpt-oss, with gate <= 7, -7 <= up <= 7: gate * sigmoid(1.702 gate) *
 * (up + 1). Shapes must be equal. */
int ml_tensor_swiglu(const ml_tensor *gate, const ml_tensor *up, int clamped, ml_tensor **out);
/* softmax(q keys^T) values for q {queries, d} (already scaled), keys and values {tokens, d} -> {queries, d}; d a
 * multiple of 8, at most 256. Keys and values are read as bf16 if both are that. */
int ml_tensor_attend(const ml_tensor *q, const ml_tensor *keys, const ml_tensor *values, ml_tensor **out);

/* What ml_tensor_reduce() computes of each row. */
enum { ML_SUM = 0, ML_MEAN = 1, ML_MIN = 2, ML_MAX = 3, ML_NORM = 4 };
/* One number a row, accumulated in double (ML_NORM: the L2 norm; ML_MIN and ML_MAX pass over NaN). The last dimension
 * goes away; of a tensor of one dimension {1} is left. */
int ml_tensor_reduce(const ml_tensor *x, int operation, ml_tensor **out);
/* Index of the largest element of each row, from 0 (the first among equals), as i32 in the same shape as reduce gives.
 */
int ml_tensor_argmax(const ml_tensor *x, ml_tensor **out);
/* The k largest of each row, best first: values f32 {..., k} and their indices i32 {..., k}, from 0. */
int ml_tensor_topk(const ml_tensor *x, int64_t k, ml_tensor **values, ml_tensor **ids);

typedef struct ml_stats {
    int64_t count;                /* elements */
    int64_t nans, infinities;     /* of them */
    double min, max;              /* over all but NaN; NaN if there are none */
    double mean, deviation, norm; /* over the finite ones; 0 if there are none */
} ml_stats;
/* All of it in one pass over the elements. */
int ml_tensor_stats(const ml_tensor *x, ml_stats *out);

/* Writes an .npy file (NumPy's format 1.0). bf16 and block dtypes are written as f32. */
int ml_tensor_save(const ml_tensor *tensor, const char *path);
/* Reads an .npy file (format 1.0 to 3.0) of f2, f4, f8, i1, i2, i4, i8, or u1 (which becomes i16), little endian, in C
 * or Fortran order. */
int ml_tensor_load(const char *path, ml_tensor **out);

/* ---- laboratory: yardsticks and switches ------------------------------------------------------ */

/* Measures the read bandwidth: all threads stream a buffer of 512 MiB for about `milliseconds`.
 * Bytes per second of the best pass. */
int ml_machine_bandwidth(double milliseconds, double *bytes_per_second);
/* Measures the multiply peak: all threads run the multiplication that prefill lives on (bf16 tiles under amx,
 * int16 pairs under avx2 and avx512, bytes under neon where it has SDOT, else f32) in registers for about
 * `milliseconds`. Operations per second of the best pass; a multiplication and an addition are two. */
int ml_machine_multiply_peak(double milliseconds, double *operations_per_second);

/* Optimisations, each with a switch, to measure what it is worth (moonloom bench --ablate). All are on. Name of switch
 * i = 0, 1, ... and what it means, in a line; NULL after the last. */
const char *ml_tuning_name(int i);
const char *ml_tuning_meaning(int i);
/* 1 if the switch of that name is on, 0 if off; ML_E_ARGUMENT for an unknown name. */
int ml_tuning_get(const char *name);
/* Switches it off (on = 0) or on. To be called between passes. Results stay within what instruction sets may differ by
 * (2e-3 a logit of tiny-gpt-oss, keys and values in f32), but for what a matrix unit rounds to bf16: "integers" and, of
 * other dtypes, "columns" change f32 sums, "integers" the rounding of activations; "matrix", and "flash" on a matrix
 * unit, what is bf16; the others change no bit. "huge" is about memory that is asked for from then on. ML_E_ARGUMENT
 * for an unknown name. */
int ml_tuning_set(const char *name, int on);

/* ---- laboratory: pages of the cache, measured ------------------------------------------------- */

/* Pages of the cache that are in use, and how many of them are quantised. */
void ml_cache_pages(const ml_cache *cache, int64_t *pages, int64_t *quantised);
/* Bytes of a page of `layer`: plain, or as the policy has full ones. */
int64_t ml_cache_page_bytes(const ml_cache *cache, int32_t layer, int plain);

/* What packing and quantising make of one page. */
typedef struct ml_page_sample {
    int64_t bytes;         /* of the page as it is */
    int64_t packed;        /* of it as a cold page: bytes split by their place in a number, then zstd */
    int64_t unsplit;       /* of it by zstd alone */
    int32_t plain;         /* 1: the page is, and the errors below are known */
    double key_error[2];   /* root mean square of (stored - plain) over that of plain, with 8 bits and with 4 */
    double value_error[2]; /* likewise */
} ml_page_sample;

/* Tries both on the newest full page of `layer` in a sequence that is plain and in memory, or else on the newest one
 * that is in memory. ML_E_NOT_FOUND if there is none. */
int ml_cache_sample(const ml_cache *cache, int32_t sequence, int32_t layer, ml_page_sample *out);

/* How fast pages come back into memory: seconds for all full pages of a sequence. On one thread each page counts with
 * the best of five rounds, so that a busy machine does not matter much; of the stream the best round counts. */
typedef struct ml_promotion {
    int64_t pages, bytes; /* their number; bytes of them as attention reads them */
    int64_t packed;       /* bytes of them packed */
    int64_t zstd;         /* what they would be if zstd had each page in one piece, split bytes in numbers of 16 bits */
    double zstd_seconds;  /* ZSTD_decompress() of those pieces, on one thread */
    double memory_seconds; /* cold pages: unpacked on one thread */
    double disk_seconds;   /* pages of the spill file: read, checked and unpacked on one thread */
    double check_seconds;  /* their checksums alone */
    double stream_seconds; /* the same as attention gets them: all threads, and the one that works ahead */
} ml_promotion;

/* For benchmarks only: puts all pages into the spill file and measures how they come back. ML_E_ARGUMENT without a
 * budget or a spill file, ML_E_NOT_FOUND without a full page, ML_E_IO if the spill file does not take them all. */
int ml_cache_promotion(ml_cache *cache, int32_t sequence, ml_promotion *out);

/* For benchmarks only: adds `count` tokens to a sequence without computing them. Ids, keys and values are random (keys
 * with a mean of their own for each element, as in trained models) and the same for the same seed; after each page
 * ml_cache_settle() is called, so that memory stays within the policy. What is in the sequence afterwards is worth
 * nothing but for measuring. On a failure the pages before stay. */
int ml_sequence_fill_random(ml_cache *cache, int32_t sequence, int64_t count, uint64_t seed);

/* ---- laboratory: quantised pages, looked at by themselves ------------------------------------- */

/* Pages of the cache hold 64 tokens. Warm ones hold, for each KV head, keys and values as codes of 8 or 4 bits with a
 * step and a zero for each token and head; `bits` is 16 for what is not quantised. */

/* What keys (values = 0) or values (1) {tokens, d}, d a multiple of 8 up to 256, become by being stored so: f32 of the
 * same shape. `rotated`: keys are turned by a Hadamard matrix first (and back here). ML_E_ARGUMENT if one is infinite
 * or NaN. */
int ml_warm_round(const ml_tensor *x, int values, int bits, int rotated, ml_tensor **out);
/* Every row of x turned by that matrix, in blocks of the largest power of two that divides its length: orthogonal, and
 * its own inverse. */
int ml_warm_rotate(const ml_tensor *x, ml_tensor **out);
/* ml_tensor_attend() on pages of keys and values that are stored so, by the kernels of the cache. */
int ml_warm_attend(const ml_tensor *q, const ml_tensor *keys, const ml_tensor *values, int key_bits, int value_bits,
                   int rotated, ml_tensor **out);

/* ---- laboratory: memory pools, where cache pages come from ------------------------------------ */

/* reserved = used + lost + free_pages + free_blocks. All in bytes. */
typedef struct ml_pool_info {
    int64_t budget;        /* of `reserved`; 0: none */
    int64_t reserved;      /* what the pool has from the system (resident once it is written to) */
    int64_t reserved_peak; /* the most it ever had */
    int64_t used;          /* taken, as it was asked for */
    int64_t used_peak;     /* the most that ever was */
    int64_t pieces;        /* number of pieces taken */
    int64_t free_pages;    /* in blocks that are cut into pages of some size, for pieces of that size */
    int64_t free_blocks;   /* for pieces of any size */
    int64_t largest_block; /* the largest of these blocks */
    int64_t lost;          /* by rounding up */
    double fragmentation;  /* share of `reserved` that is not used */
} ml_pool_info;

/* An empty pool that never has more than `budget` bytes from the system; 0: no limit. The calls of a pool may come from
 * any thread. */
int ml_pool_create(int64_t budget, ml_pool **out);
/* Releases the pool and all that was taken from it. */
void ml_pool_free(ml_pool *pool);
/* Changes the budget; one below what the pool has only keeps it from growing. */
int ml_pool_budget(ml_pool *pool, int64_t budget);
/* Announces pieces of exactly `bytes`: they are rounded up to a multiple of 64 only, other sizes by up to 1/16. At most
 * 64 sizes. */
int ml_pool_size(ml_pool *pool, int64_t bytes);
/* Takes a piece of 1 to 32 MiB bytes, aligned to 64, with anything in it. ML_E_MEMORY if the budget or the system has
 * no more. */
int ml_pool_take(ml_pool *pool, int64_t bytes, void **out);
/* Gives a piece back, `bytes` as it was taken. NULL is fine; ML_E_ARGUMENT for what is not taken. An arena of which
 * nothing is taken goes back to the system, but for one. */
int ml_pool_give(ml_pool *pool, void *data, int64_t bytes);
/* Gives that one back, too. */
void ml_pool_trim(ml_pool *pool);
/* Where all its bytes are. */
void ml_pool_stats(ml_pool *pool, ml_pool_info *out);

/* Where the cache's memory is: the state of the pool that its pages come from. */
void ml_cache_memory(const ml_cache *cache, ml_pool_info *out);

/* ---- laboratory: random weights --------------------------------------------------------------- */

/* Fills `out` with `elements` random elements of a floating or block dtype: always finite, mean 0, standard
 * deviation `deviation` (1e-6 to 1e3). The same seed gives the same bytes. `elements` fills whole blocks. */
int ml_synth_fill(int dtype, int64_t elements, double deviation, uint64_t seed, void *out);

// cdef:end
#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
