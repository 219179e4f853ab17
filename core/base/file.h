/* Files that appear whole or not at all. */
#ifndef ML_BASE_FILE_H
#define ML_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* A file being written beside its place, as `path`.part. */
typedef struct ml_file {
    char *path, *part;
    int descriptor;
    int64_t bytes; /* written so far */
} ml_file;

/* Begins a file at `path`. What an earlier attempt left behind (a process that was killed) is written over; a second
 * process that writes the same file at the same time is refused. ML_E_IO with a sentence. */
int ml_file_create(const char *path, ml_file *file);
/* Appends `bytes` bytes. */
int ml_file_write(ml_file *file, const void *data, size_t bytes);
/* Writes over the first `bytes` bytes. */
int ml_file_rewrite(ml_file *file, const void *data, size_t bytes);
/* Puts the file into its place: synced, renamed over what was there, the folder synced. On failure what was there
 * stays. Ends the ml_file in any case. */
int ml_file_commit(ml_file *file);
/* Ends the ml_file and removes what was written; fine for one that has ended. */
void ml_file_abandon(ml_file *file);

#endif
