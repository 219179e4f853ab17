/* Bytes of pages, made small without loss: split by the place of a byte in its number, then zstd. The high bytes of
 * neighbouring bf16 or f32 numbers are alike, the low ones are noise: each kind is a zstd frame of its own, so that
 * noise is stored as it is and costs the reader a copy. */
#ifndef ML_KV_BYTES_PACKED_H
#define ML_KV_BYTES_PACKED_H

#include <stddef.h>
#include <stdint.h>

/* What one thread needs to pack and unpack pieces of up to `largest` bytes. */
typedef struct ml_packer ml_packer;

int ml_packer_create(size_t largest, ml_packer **out);
void ml_packer_free(ml_packer *packer);
/* The most bytes that `bytes` can become. */
size_t ml_packed_bound(size_t bytes);
/* Packs `bytes` bytes, numbers of `element` bytes each (1, 2 or 4), into `out` of ml_packed_bound(bytes). Returns how
 * many bytes that took; 0 if zstd failed (ml_last_error). */
size_t ml_pack(ml_packer *packer, const uint8_t *data, size_t bytes, size_t element, uint8_t *out);
/* Packs them as one piece, whatever that saves: to compare with. ml_unpack() with element 1 gives the split bytes back.
 */
size_t ml_pack_whole(ml_packer *packer, const uint8_t *data, size_t bytes, size_t element, uint8_t *out);
/* Unpacks what became of exactly `bytes` bytes. ML_E_FORMAT if it is anything else; `out` is then worth nothing. */
int ml_unpack(ml_packer *packer, const uint8_t *packed, size_t packed_bytes, size_t element, uint8_t *out,
              size_t bytes);

#endif
