#include "kv/promote.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kv/budget.h"
#include "kv/page.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    SPAN_PAGES = 64,       /* at most */
    STAGING_MOST = 8 << 20 /* bytes of an area, unless its least span needs more */
};

typedef struct job {
    ml_page *page;
    uint8_t *to;
    int staged, failed;
} job;

/* A span that is unpacked, or has been. */
typedef struct stage {
    ml_span span;
    uint8_t *area; /* of the pool, or NULL where there is no budget */
    int64_t used;
    job *jobs;
    size_t count, capacity;
    int issued, shown; /* under way, or waiting to be taken; its pages are readable */
    atomic_llong next; /* job */
} stage;

struct ml_promoter {
    pthread_t thread;
    pid_t process; /* that has the thread: a child after fork() has none */
    int running, stop;
    pthread_mutex_t lock; /* of stop, work and busy */
    pthread_cond_t wake, rest;
    stage *work; /* for the thread, or NULL */
    int busy;    /* it is at a stage */
    ml_porter porter;
    size_t porter_bytes;
    stage stages[2];
    int now; /* the stage that was taken last */
    int64_t area_bytes, pages;
};

/* ---- the thread ---- */

static void work_on(stage *s, ml_porter *porter) {
    for (;;) {
        const long long i = atomic_fetch_add(&s->next, 1);
        if (i >= (long long)s->count) return;
        job *j = &s->jobs[i];
        j->failed = ml_page_fetch(j->page, porter, j->to) != ML_OK;
    }
}

static void *run(void *arg) {
    ml_promoter *promoter = arg;
    pthread_mutex_lock(&promoter->lock);
    while (!promoter->stop) {
        stage *s = promoter->work;
        if (!s) {
            pthread_cond_wait(&promoter->wake, &promoter->lock);
            continue;
        }
        promoter->busy = 1;
        pthread_mutex_unlock(&promoter->lock);
        work_on(s, &promoter->porter);
        pthread_mutex_lock(&promoter->lock);
        promoter->busy = 0;
        if (promoter->work == s) promoter->work = NULL;
        pthread_cond_signal(&promoter->rest);
    }
    pthread_mutex_unlock(&promoter->lock);
    return NULL;
}

/* Waits until the thread has left its stage. All jobs are given out. */
static void settle_thread(ml_promoter *promoter) {
    pthread_mutex_lock(&promoter->lock);
    promoter->work = NULL;
    while (promoter->busy) pthread_cond_wait(&promoter->rest, &promoter->lock);
    pthread_mutex_unlock(&promoter->lock);
}

/* Without a thread the caller does it all: slower, not wrong. */
static void wake_thread(ml_promoter *promoter, stage *s) {
    if (!promoter->running) promoter->running = ml_thread_start(&promoter->thread, run, promoter) == 0;
    if (!promoter->running) return;
    pthread_mutex_lock(&promoter->lock);
    promoter->work = s;
    pthread_cond_signal(&promoter->wake);
    pthread_mutex_unlock(&promoter->lock);
}

/* ---- the object ---- */

static void open_locks(ml_promoter *promoter) {
    pthread_mutex_init(&promoter->lock, NULL);
    pthread_cond_init(&promoter->wake, NULL);
    pthread_cond_init(&promoter->rest, NULL);
}

static ml_promoter *promoter_of(ml_cache *cache) {
    if (cache->promoter) return cache->promoter;
    ml_promoter *promoter = ml_calloc(1, sizeof *promoter);
    if (!promoter) return NULL;
    open_locks(promoter);
    promoter->process = getpid();
    promoter->pages = SPAN_PAGES;
    return cache->promoter = promoter;
}

static void close_areas(ml_cache *cache) {
    ml_promoter *promoter = cache->promoter;
    for (int i = 0; i < 2; i++) {
        ml_pool_give(cache->pool, promoter->stages[i].area, promoter->area_bytes);
        promoter->stages[i].area = NULL;
    }
    promoter->area_bytes = 0;
    promoter->pages = SPAN_PAGES;
}

void ml_promote_free(ml_cache *cache) {
    ml_promoter *promoter = cache->promoter;
    if (!promoter) return;
    ml_promote_halt(cache);
    if (promoter->running) {
        pthread_mutex_lock(&promoter->lock);
        promoter->stop = 1;
        pthread_cond_signal(&promoter->wake);
        pthread_mutex_unlock(&promoter->lock);
        pthread_join(promoter->thread, NULL);
    }
    close_areas(cache);
    for (int i = 0; i < 2; i++) free(promoter->stages[i].jobs);
    ml_porter_close(&promoter->porter);
    pthread_cond_destroy(&promoter->wake);
    pthread_cond_destroy(&promoter->rest);
    pthread_mutex_destroy(&promoter->lock);
    free(promoter);
    cache->promoter = NULL;
}

int64_t ml_promote_pages(const ml_cache *cache) {
    return cache->promoter ? cache->promoter->pages : SPAN_PAGES;
}

uint8_t **ml_promote_area(ml_cache *cache, int i, int64_t *bytes) {
    ml_promoter *promoter = cache->promoter;
    if (!promoter || !promoter->stages[i].area) return NULL;
    *bytes = promoter->area_bytes;
    return &promoter->stages[i].area;
}

/* Takes room for both staging areas, or for none. */
static int take_areas(ml_cache *cache, int64_t bytes, uint8_t *areas[2]) {
    for (int i = 0; i < 2; i++) {
        areas[i] = ml_page_room(cache, bytes, ML_RECLAIM_SEQUENCES);
        if (areas[i]) continue;
        if (i > 0) ml_pool_give(cache->pool, areas[0], bytes);
        return ML_E_MEMORY;
    }
    return ML_OK;
}

/* The least size of an area that holds `least` pages. The pool has powers of two without loss. */
static int64_t least_area(const ml_cache *cache, int64_t least) {
    int64_t bytes = 1;
    while (bytes < least * (int64_t)ml_page_largest(cache)) bytes *= 2;
    return bytes;
}

int ml_promote_fits(const ml_cache *cache, int64_t least) {
    const int64_t area = least_area(cache, least), budget = cache->places.memory,
                  needed = 2 * area + cache->shape.layers * cache->plain->bytes;
    if (budget >= needed) return ML_OK;
    return ml_error(ML_E_MEMORY,
                    "a budget of %lld bytes is too small for keys and values: one page of every layer of this model "
                    "and what passes through take %lld; give it more",
                    (long long)budget, (long long)needed);
}

/* Takes areas of `bytes` or, where the pool has no room for so much, less; but of `least` pages. */
static int open_areas(ml_cache *cache, int64_t bytes, int64_t least) {
    ml_promoter *promoter = cache->promoter;
    const int64_t largest = (int64_t)ml_page_largest(cache);
    uint8_t *areas[2];
    int status = ML_E_MEMORY;
    for (; bytes >= least * largest && bytes != promoter->area_bytes; bytes /= 2) {
        status = take_areas(cache, bytes, areas);
        if (status != ML_OK) continue;
        close_areas(cache);
        for (int i = 0; i < 2; i++) promoter->stages[i].area = areas[i];
        promoter->area_bytes = bytes;
        promoter->pages = bytes / largest < SPAN_PAGES ? bytes / largest / least * least : SPAN_PAGES;
        return ML_OK;
    }
    return promoter->stages[0].area ? ML_OK : status; /* those that there are do as well */
}

int ml_promote_open(ml_cache *cache, int64_t least) {
    ml_promoter *promoter = promoter_of(cache);
    if (!promoter) return ML_E_MEMORY;
    ml_promote_halt(cache);
    if (cache->places.memory == 0) {
        close_areas(cache);
        return ML_OK;
    }
    const int64_t largest = (int64_t)ml_page_largest(cache), share = cache->places.memory / 16,
                  most = share < STAGING_MOST ? share : STAGING_MOST;
    int64_t bytes = least_area(cache, least);
    while (2 * bytes <= most && bytes < SPAN_PAGES * largest) bytes *= 2;
    return open_areas(cache, bytes, least);
}

/* ---- spans ---- */

static int same_span(const ml_span *a, const ml_span *b) {
    return a->layer == b->layer && a->sequence == b->sequence && a->first == b->first && a->end == b->end;
}

/* Room for a page of the stage: its own if the budget has that, else in the area. */
static int place_job(ml_cache *cache, stage *s, job *j, int64_t *spare) {
    const int64_t bytes = j->page->format->bytes;
    void *data;
    if (*spare >= bytes && ml_pool_take(cache->pool, bytes, &data) == ML_OK) {
        *spare -= bytes;
        j->to = data;
        return ML_OK;
    }
    if (!s->area || s->used + bytes > cache->promoter->area_bytes) {
        return ml_error(ML_E_MEMORY, "out of memory: %lld bytes for a page that attention needs", (long long)bytes);
    }
    j->staged = 1;
    j->to = s->area + s->used;
    s->used += bytes;
    return ML_OK;
}

static void drop_jobs(ml_cache *cache, stage *s) {
    for (size_t i = 0; i < s->count; i++) {
        if (s->jobs[i].to && !s->jobs[i].staged)
            ml_pool_give(cache->pool, s->jobs[i].to, s->jobs[i].page->format->bytes);
    }
    s->count = 0;
    s->issued = s->shown = 0;
}

/* In a child after fork(): what the thread was at is nobody's now, and another one is started when it is needed. */
static void forget_thread(ml_cache *cache) {
    ml_promoter *promoter = cache->promoter;
    if (promoter->process == getpid()) return;
    promoter->process = getpid();
    promoter->running = promoter->busy = 0;
    promoter->work = NULL;
    open_locks(promoter);
    for (int i = 0; i < 2; i++) {
        if (promoter->stages[i].issued && !promoter->stages[i].shown) drop_jobs(cache, &promoter->stages[i]);
    }
}

/* Lists what is missing of a span, and lets the thread begin. */
static int issue(ml_cache *cache, stage *s, const ml_span *span) {
    ml_promoter *promoter = cache->promoter;
    const ml_sequence *sequence = &cache->sequences[span->sequence];
    int64_t spare = ml_budget_spare(cache);
    s->span = *span;
    s->used = 0;
    s->count = 0;
    s->issued = 1;
    int status = ML_OK;
    for (int64_t i = span->first; status == ML_OK && i < span->end; i++) {
        ml_page *page = sequence->pages[i * cache->shape.layers + span->layer];
        if (page->data && !page->staged) continue;
        void *jobs = s->jobs;
        status = ml_grow(&jobs, &s->capacity, s->count + 1, sizeof *s->jobs);
        s->jobs = jobs;
        if (status != ML_OK) break;
        s->jobs[s->count] = (job){.page = page};
        status = place_job(cache, s, &s->jobs[s->count++], &spare);
    }
    if (status != ML_OK) {
        drop_jobs(cache, s);
        return status;
    }
    atomic_store(&s->next, 0);
    if (s->count > 0) wake_thread(promoter, s);
    return ML_OK;
}

typedef struct helping {
    ml_cache *cache;
    stage *s;
} helping;

static void help(void *arg, int64_t begin, int64_t end, int thread) {
    (void)begin, (void)end;
    const helping *h = arg;
    work_on(h->s, &h->cache->porters[thread]);
}

/* Finishes a stage and shows its pages. */
static int show(ml_cache *cache, stage *s) {
    helping h = {cache, s};
    if (atomic_load(&s->next) < (long long)s->count) ml_parallel(cache->porter_count, 1, help, &h);
    settle_thread(cache->promoter);
    int status = ML_OK;
    for (size_t i = 0; status == ML_OK && i < s->count; i++) {
        job *j = &s->jobs[i];
        /* Once more, here: for the sentence. */
        if (j->failed) status = ml_page_fetch(j->page, &cache->porters[0], j->to);
    }
    if (status != ML_OK) {
        drop_jobs(cache, s);
        return status;
    }
    for (size_t i = 0; i < s->count; i++) {
        job *j = &s->jobs[i];
        if (j->staged) {
            ml_page_traffic(cache, j->page->layer, ml_page_level(j->page))->promoted++;
            j->page->data = j->to;
            j->page->staged = 1;
        } else {
            ml_page_restore(cache, j->page, j->to);
        }
    }
    s->shown = 1;
    return ML_OK;
}

static int make_porters(ml_cache *cache) {
    ml_promoter *promoter = cache->promoter;
    const size_t largest = ml_page_largest(cache);
    int status = ml_page_porters(cache);
    if (status != ML_OK || promoter->porter_bytes >= largest) return status;
    ml_porter_close(&promoter->porter);
    promoter->porter_bytes = 0;
    status = ml_porter_open(largest, &promoter->porter);
    if (status == ML_OK) promoter->porter_bytes = largest;
    return status;
}

int ml_promote_take(ml_cache *cache, const ml_span *now, const ml_span *next) {
    ml_promoter *promoter = promoter_of(cache);
    if (!promoter) return ML_E_MEMORY;
    forget_thread(cache);
    stage *ahead = &promoter->stages[!promoter->now];
    int status = make_porters(cache);
    if (status == ML_OK && (!ahead->issued || !same_span(&ahead->span, now))) {
        ml_promote_halt(cache);
        status = issue(cache, ahead, now);
    }
    if (status == ML_OK) status = show(cache, ahead);
    if (status != ML_OK) return status;
    promoter->now = !promoter->now;
    /* What is ahead may fail: its turn comes, and it is tried again then. */
    if (next->first < next->end) issue(cache, &promoter->stages[!promoter->now], next);
    return ML_OK;
}

void ml_promote_done(ml_cache *cache) {
    stage *s = &cache->promoter->stages[cache->promoter->now];
    for (size_t i = 0; i < s->count; i++) {
        if (!s->jobs[i].staged) continue;
        s->jobs[i].page->data = NULL;
        s->jobs[i].page->staged = 0;
    }
    s->count = 0;
    s->issued = s->shown = 0;
}

void ml_promote_halt(ml_cache *cache) {
    ml_promoter *promoter = cache->promoter;
    if (!promoter) return;
    forget_thread(cache);
    for (int i = 0; i < 2; i++) {
        stage *s = &promoter->stages[i];
        if (!s->issued || s->shown) continue;
        atomic_store(&s->next, (long long)s->count);
        settle_thread(promoter);
        drop_jobs(cache, s);
    }
}
