/* The spill file: packed pages on disk. It has no name, so nothing is left of it after a crash. */
#ifndef ML_KV_BYTES_SPILL_H
#define ML_KV_BYTES_SPILL_H

#include <stddef.h>
#include <stdint.h>

typedef struct ml_spill ml_spill;

/* Makes a spill file in the folder `path`, or at `path` if nothing is there, and takes its name away again. The caller
 * is its first holder. ML_E_IO with a sentence. */
int ml_spill_create(const char *path, ml_spill **out);
/* One holder less: the file goes with the last. Every record is a holder. */
void ml_spill_release(ml_spill *spill);
/* The path that it was made with. */
const char *ml_spill_path(const ml_spill *spill);
/* Bytes of records in it. */
int64_t ml_spill_bytes(const ml_spill *spill);
/* Writes a record; *offset receives its place, *hash its checksum. ML_E_IO with a sentence: nothing changed. */
int ml_spill_write(ml_spill *spill, const uint8_t *data, size_t bytes, int64_t *offset, uint64_t *hash);
/* Reads it back; any thread. ML_E_IO if it cannot be read or is not what was written: so the file is read and not
 * mapped, where a disk that fails would end the process. */
int ml_spill_read(const ml_spill *spill, int64_t offset, size_t bytes, uint64_t hash, uint8_t *out);
/* Frees the place of a record. */
void ml_spill_forget(ml_spill *spill, int64_t offset, size_t bytes);

#endif
