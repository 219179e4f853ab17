/* Who goes first when memory runs short: the whole order of replacement. See victims.c for the table. */
#ifndef ML_KV_VICTIMS_H
#define ML_KV_VICTIMS_H

#include "kv/state.h"

/* Full pages of sequences, by what speaks for keeping them in memory; earlier ones go first. */
typedef enum ml_victim_class {
    ML_VICTIMS_COLD,    /* packed: nobody reads them there. They can only go to the disk */
    ML_VICTIMS_OUTSIDE, /* of layers without a window, and behind the windows of the others */
    ML_VICTIMS_ALL,     /* those in windows, too, which every pass reads */
    ML_VICTIM_CLASSES
} ml_victim_class;

typedef struct ml_victim {
    ml_page *page;
    int64_t number; /* of the page among those of its layer: the age of its tokens */
} ml_victim;

/* The pages of a class that lie above the disk, who goes first in front; a page that several sequences show may stand
 * there more than once. *list {the returned count} is the caller's to free; NULL and 0 without memory. Nothing is held:
 * the list is good while no sequence changes. */
size_t ml_victims_pages(ml_cache *cache, ml_victim_class which, ml_victim **list);
/* The sequence to be given up: NULL if there is none that may be. */
ml_sequence *ml_victims_sequence(ml_cache *cache);

#endif
