/* How the rows of a batch are cut into tiles, and their KV heads into blocks. */
#ifndef ML_MODEL_ATTEND_TILES_H
#define ML_MODEL_ATTEND_TILES_H

#include "model/attend.h"

/* Cuts the rows of the batch into tiles. */
void ml_attend_cut(ml_attention *work);
/* Chooses work->block: the most heads of which all queries fit a tile, but so few that no item is more than its part of
 * the work: of `all` chunks `longest` make an item. */
void ml_attend_choose_block(ml_attention *work, int64_t longest, int64_t all);
/* A tile and a block of its heads. */
ml_attend_item ml_attend_item_of(const ml_attention *work, const ml_tile *tile, int64_t block);

#endif
