/* Signals of the moonloom command: Ctrl-C as an error that the prompt survives, quiet pipes, a restored terminal.
 *
 * SIGINT asks the core to stop (ml_interrupt_set) and sets a hook on Lua, as Lua's own shell does; the hook raises the
 * interrupt error at the next instruction of a recipe or of what the user typed. Only code under signals_call() is
 * interrupted: the shell itself never is. */
#include "shell.h"

#include "moonloom.h"

#include <lauxlib.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_INTERRUPTED = 130, GRACE_SECONDS = 2 };

static lua_State *volatile state;
static volatile sig_atomic_t calls;       /* depth of signals_call() */
static volatile sig_atomic_t pressed;     /* Ctrl-C since the running call began, or since it was taken */
static volatile sig_atomic_t interactive; /* a prompt follows: do not exit on the first Ctrl-C */
static struct timespec last_press;
static struct termios saved_terminal;
static volatile sig_atomic_t terminal_is_held;
static const char interrupt_key; /* its address is the registry key of the interrupt error */
static char library_source[4096];

static void say(const char *text) {
    int keep = errno;
    if (write(STDERR_FILENO, text, strlen(text)) < 0) errno = keep;
}

void signals_hold_terminal(void) {
    terminal_is_held = tcgetattr(STDIN_FILENO, &saved_terminal) == 0;
}

void signals_release_terminal(void) {
    terminal_is_held = 0;
}

/* Async-signal-safe. Only while a line is edited: a program in the background must not touch the terminal. */
static void restore_terminal(void) {
    if (!terminal_is_held) return;
    terminal_is_held = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
    say("\033[?2004l\r\n"); /* no more bracketed paste */
}

static void leave(void) {
    restore_terminal();
    _exit(EXIT_INTERRUPTED);
}

/* Raises the interrupt, except inside the library: its objects must not be left half changed. One Ctrl-C raises
 * once, so that a recipe may catch it and finish; after a second one every instruction raises. */
static void raise_interrupt(lua_State *L, lua_Debug *record) {
    size_t length = strlen(library_source);
    lua_getinfo(L, "S", record);
    if (length > 0 && strncmp(record->source, library_source, length) == 0) return;
    if (pressed < 2) lua_sethook(L, NULL, 0, 0);
    alarm(0);
    lua_pushlightuserdata(L, (void *)&interrupt_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_error(L);
}

static void on_interrupt(int number) {
    (void)number;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (calls && !ml_interrupt_pending()) pressed = 0; /* a recipe has caught the one before */
    pressed++;
    if (!calls && !interactive) leave();
    if (!calls) return; /* at the prompt: line.c sees `pressed` */
    ml_interrupt_set(1);
    if (state) lua_sethook(state, raise_interrupt, LUA_MASKCOUNT, 1);
    if (!interactive) {
        if (pressed > 1) leave();
        alarm(GRACE_SECONDS); /* compiled loops see no hook: then SIGALRM ends them */
    } else if (pressed == 2) {
        say("\nmoonloom: still busy; Ctrl-C again within two seconds ends moonloom\n");
    } else if (pressed > 2) {
        if (now.tv_sec - last_press.tv_sec <= 2) leave();
        pressed = 1;
    }
    last_press = now;
}

static void on_alarm(int number) {
    (void)number;
    leave();
}

static void on_end(int number) {
    restore_terminal();
    signal(number, SIG_DFL);
    raise(number);
}

/* A page of a mapped file cannot be read. What runs cannot go on, nor be taken back: say why, and end. */
static void on_lost_page(int number) {
    (void)number;
    restore_terminal();
    say("moonloom: a file in use, a model or a saved session, became shorter or cannot be read any more\n");
    _exit(EXIT_FAILURE);
}

/* At a prompt a broken pipe is an error of that write, not the end. (A handler, because programs that the prompt
 * starts would inherit SIG_IGN.) */
static void on_broken_pipe(int number) {
    (void)number;
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigaction(number, &action, NULL);
}

void signals_install(lua_State *L, const char *library) {
    size_t length = strlen(library);
    if (length + 3 < sizeof library_source) {
        library_source[0] = '@';
        memcpy(library_source + 1, library, length);
        memcpy(library_source + 1 + length, "/", 2);
    }
    state = L;
    atexit(restore_terminal);
    handle(SIGINT, on_interrupt, SA_RESTART);
    handle(SIGALRM, on_alarm, 0);
    handle(SIGTERM, on_end, 0);
    handle(SIGHUP, on_end, 0);
    handle(SIGBUS, on_lost_page, 0);
    handle(SIGPIPE, SIG_DFL, 0); /* some parents ignore it, and `moonloom ... | head` must end */
    handle(SIGXFSZ, SIG_IGN, 0); /* a write beyond `ulimit -f` fails with a sentence instead */
}

void signals_forget(void) {
    state = NULL;
}

int signals_interrupted(void) {
    return pressed > 0;
}

int signals_take_interrupt(void) {
    int seen = pressed > 0;
    pressed = 0;
    ml_interrupt_set(0);
    return seen;
}

/* Message handler around the caller's: the handler is not to be interrupted. */
static int calm_handler(lua_State *L) {
    lua_sethook(L, NULL, 0, 0);
    int depth = calls;
    calls = 0;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    if (lua_pcall(L, lua_gettop(L) - 1, 1, 0) != 0) lua_settop(L, 1);
    calls = depth;
    return 1;
}

int signals_call(lua_State *L, int arguments, int results, int handler) {
    int base = lua_gettop(L) - arguments; /* of the function */
    if (handler != 0) {
        lua_pushvalue(L, handler);
        lua_pushcclosure(L, calm_handler, 1);
        lua_insert(L, base);
    }
    calls++;
    int status = lua_pcall(L, arguments, results, handler != 0 ? base : 0);
    calls--;
    if (calls == 0) {
        lua_sethook(L, NULL, 0, 0);
        alarm(0);
    }
    if (handler != 0) lua_remove(L, base);
    return status;
}

/* native.protect(f, handler, ...) -> true, results of f(...) | false, what handler(error) returned */
static int native_protect(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    int top = lua_gettop(L);
    lua_pushvalue(L, 1);
    lua_insert(L, 3); /* below its arguments, so that only results are left above the handler */
    int status = signals_call(L, top - 2, LUA_MULTRET, 2);
    lua_pushboolean(L, status == 0);
    lua_replace(L, 2);
    return lua_gettop(L) - 1;
}

/* native.set_interrupt(value): the error that Ctrl-C raises */
static int native_set_interrupt(lua_State *L) {
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    lua_pushlightuserdata(L, (void *)&interrupt_key);
    lua_insert(L, 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
    return 0;
}

/* native.take_interrupt() -> whether Ctrl-C was pressed since the last call; clears the request in the core too */
static int native_take_interrupt(lua_State *L) {
    lua_pushboolean(L, signals_take_interrupt());
    return 1;
}

/* native.set_interactive(): from now on a prompt follows whatever runs */
static int native_set_interactive(lua_State *L) {
    (void)L;
    interactive = 1;
    handle(SIGPIPE, on_broken_pipe, SA_RESTART);
    return 0;
}

void signals_register(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"protect", native_protect},
        {"set_interrupt", native_set_interrupt},
        {"take_interrupt", native_take_interrupt},
        {"set_interactive", native_set_interactive},
        {NULL, NULL},
    };
    luaL_register(L, NULL, functions);
    lua_pushliteral(L, "interrupted");
    lua_pushlightuserdata(L, (void *)&interrupt_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}
