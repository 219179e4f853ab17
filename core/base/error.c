#include "base/error.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Thread_local char last_error[1024] = "no error";
static atomic_int interrupted; /* without a lock: signal handlers, whichever thread they run on, may set it */

/* What a file calls itself may hold control characters: they would break the line, or move the cursor. */
static void make_plain(char *text) {
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
    }
}

int ml_error(int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
    make_plain(last_error);
    return status;
}

const char *ml_last_error(void) {
    return last_error;
}

const char *ml_version(void) {
    return "0.1.0";
}

void ml_interrupt_set(int on) {
    atomic_store_explicit(&interrupted, on != 0, memory_order_relaxed);
}

int ml_interrupt_pending(void) {
    return atomic_load_explicit(&interrupted, memory_order_relaxed);
}
