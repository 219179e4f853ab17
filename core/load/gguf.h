/* GGUF v2 and v3 (ggml-org/ggml, docs/gguf.md), and split files as llama.cpp's gguf-split names them. */
#ifndef ML_LOAD_GGUF_H
#define ML_LOAD_GGUF_H

#include "load/store.h"

/* 1 if the `size` bytes at `data` begin a GGUF file. */
int ml_gguf_recognise(const uint8_t *data, size_t size);
/* Fills `weights`, which has weights->path mapped as its only file. Any part of a split file opens them all. */
int ml_gguf_load(ml_weights *weights);

#endif
