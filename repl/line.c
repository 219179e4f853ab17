/* Line editing of the moonloom command: GNU readline, through its callback interface, so that signals are handled
 * between two keys and never inside readline. Completion asks a Lua function. */
#include "shell.h"

#include <lauxlib.h>

#include <readline/history.h>
#include <readline/readline.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static lua_State *state;         /* whose function completes, while a line is read */
static const char completer_key; /* its address is the registry key of that function */
static char *typed;              /* the finished line, NULL at the end of input */
static int finished;
static volatile sig_atomic_t resized, suspended;

static void on_line(char *line) {
    typed = line;
    finished = 1;
    rl_callback_handler_remove();
}

static void on_resize(int number) {
    (void)number;
    resized = 1;
}

static void on_suspend(int number) {
    (void)number;
    suspended = 1;
}

/* Ctrl-Z: stops with the terminal as it was, and draws the line anew afterwards. */
static void suspend(const struct sigaction *before) {
    struct sigaction mine;
    rl_deprep_terminal();
    sigaction(SIGTSTP, before, &mine);
    raise(SIGTSTP);
    sigaction(SIGTSTP, &mine, NULL);
    rl_prep_terminal(1);
    rl_forced_update_display();
}

/* Waits for a key or a signal. Signals arrive only inside pselect(), so none is missed. */
static void wait_for_key(const sigset_t *watched, const struct sigaction *before_suspend) {
    sigset_t normal;
    fd_set input;
    FD_ZERO(&input);
    FD_SET(STDIN_FILENO, &input);
    sigprocmask(SIG_BLOCK, watched, &normal);
    int ready = signals_interrupted() || resized || suspended
                    ? 0
                    : pselect(STDIN_FILENO + 1, &input, NULL, NULL, NULL, &normal);
    sigprocmask(SIG_SETMASK, &normal, NULL);
    if (resized) {
        resized = 0;
        rl_resize_terminal();
    }
    if (suspended) {
        suspended = 0;
        suspend(before_suspend);
    }
    if (ready > 0 && !signals_interrupted()) rl_callback_read_char();
}

/* Leaves the line as it stands on the screen and gives it up. Returns what had been typed. */
static char *abandon(void) {
    rl_free_line_state();
    rl_callback_sigcleanup(); /* ends a search, which draws the line anew */
    char *text = strdup(rl_line_buffer ? rl_line_buffer : "");
    rl_point = rl_end;
    rl_redisplay();
    fputs("^C\n", stdout);
    fflush(stdout);
    rl_replace_line("", 1);
    rl_callback_handler_remove();
    return text;
}

static void watch(int number, void (*handler)(int), struct sigaction *before) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(number, &action, before);
}

/* native.read_line(prompt) -> text | nil, "end" | nil, "interrupt", what had been typed */
static int native_read_line(lua_State *L) {
    const char *prompt = luaL_checkstring(L, 1);
    struct sigaction before_resize, before_suspend;
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGWINCH);
    sigaddset(&watched, SIGTSTP);
    watch(SIGWINCH, on_resize, &before_resize);
    watch(SIGTSTP, on_suspend, &before_suspend);
    state = L;
    finished = 0;
    char *given_up = NULL;
    signals_hold_terminal();
    rl_callback_handler_install(prompt, on_line);
    while (!finished && !given_up) {
        wait_for_key(&watched, &before_suspend);
        if (!finished && signals_take_interrupt()) given_up = abandon();
    }
    signals_release_terminal();
    state = NULL;
    sigaction(SIGWINCH, &before_resize, NULL);
    sigaction(SIGTSTP, &before_suspend, NULL);

    int results = 1;
    if (given_up) {
        lua_pushnil(L);
        lua_pushliteral(L, "interrupt");
        lua_pushstring(L, given_up);
        results = 3;
    } else if (typed) {
        lua_pushstring(L, typed);
    } else {
        lua_pushnil(L);
        lua_pushliteral(L, "end");
        results = 2;
    }
    free(given_up);
    free(typed);
    typed = NULL;
    return results;
}

/* The length of what all `count` candidates (Lua strings in the list at index `list`) begin with. */
static size_t common_prefix(lua_State *L, int list, int count) {
    size_t common = 0;
    const char *first = NULL;
    for (int i = 1; i <= count; i++) {
        size_t length, same = 0;
        lua_rawgeti(L, list, i);
        const char *text = lua_tolstring(L, -1, &length);
        if (!first) {
            first = text;
            common = length;
        }
        while (same < common && same < length && text[same] == first[same]) same++;
        common = same;
        lua_pop(L, 1); /* the list keeps the string */
    }
    return common;
}

static char *join(const char *head, size_t head_bytes, const char *tail, size_t tail_bytes) {
    char *text = malloc(head_bytes + tail_bytes + 1);
    if (!text) return NULL;
    memcpy(text, head, head_bytes);
    memcpy(text + head_bytes, tail, tail_bytes);
    text[head_bytes + tail_bytes] = 0;
    return text;
}

/* The answer of the Lua completer (first byte on the stack top - 1, list on the top) as readline wants it: a
 * NULL-terminated array, the text to insert first. Readline replaces from its own `start`; ours may differ. */
static char **to_matches(lua_State *L, int start) {
    int list = lua_gettop(L), from = (int)lua_tointeger(L, -2) - 1;
    if (!lua_istable(L, list) || from < 0 || from > rl_end) return NULL;
    int count = (int)lua_objlen(L, list);
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, list, i);
        int usable = lua_type(L, -1) == LUA_TSTRING;
        lua_pop(L, 1);
        if (!usable) return NULL;
    }
    if (count == 0) return NULL;
    char **matches = calloc((size_t)count + 2, sizeof *matches);
    if (!matches) return NULL;
    size_t common = common_prefix(L, list, count);
    size_t lead = from > start ? (size_t)(from - start) : 0, cut = from < start ? (size_t)(start - from) : 0;
    for (int i = 0; i <= count; i++) {
        size_t length;
        lua_rawgeti(L, list, i == 0 ? 1 : i);
        const char *text = lua_tolstring(L, -1, &length);
        if (i == 0) length = common;
        size_t skip = cut < length ? cut : length;
        matches[i] = join(rl_line_buffer + start, i == 0 ? lead : 0, text + skip, length - skip);
        lua_pop(L, 1);
        if (!matches[i]) break;
    }
    if (count == 1) { /* a single match is the text to insert alone */
        free(matches[1]);
        matches[1] = NULL;
        size_t length = strlen(matches[0]);
        rl_completion_suppress_quote = length > 0 && matches[0][length - 1] == '/';
    }
    return matches;
}

static char **complete(const char *word, int start, int end) {
    (void)word;
    rl_attempted_completion_over = 1; /* never readline's own file names */
    rl_completion_suppress_append = 1;
    if (!state) return NULL;
    lua_State *L = state;
    int top = lua_gettop(L);
    char **matches = NULL;
    lua_pushlightuserdata(L, (void *)&completer_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (lua_isfunction(L, -1)) {
        lua_pushlstring(L, rl_line_buffer, (size_t)end);
        if (signals_call(L, 1, 2, 0) == 0) matches = to_matches(L, start);
    }
    lua_settop(L, top);
    return matches;
}

/* native.set_completer(f): f(text up to the cursor) -> byte at which the completed part starts (from 1), candidates */
static int native_set_completer(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_pushlightuserdata(L, (void *)&completer_key);
    lua_insert(L, 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
    return 0;
}

/* native.history_add(text): the newest line that the arrow keys and Ctrl-R find */
static int native_history_add(lua_State *L) {
    add_history(luaL_checkstring(L, 1));
    return 0;
}

/* native.history_limit(n): keeps the n newest lines only */
static int native_history_limit(lua_State *L) {
    stifle_history((int)luaL_checkinteger(L, 1));
    return 0;
}

void line_register(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"read_line", native_read_line},
        {"set_completer", native_set_completer},
        {"history_add", native_history_add},
        {"history_limit", native_history_limit},
        {NULL, NULL},
    };
    luaL_register(L, NULL, functions);
    rl_readline_name = "moonloom";
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    rl_change_environment = 0;
    rl_attempted_completion_function = complete;
    rl_basic_word_break_characters = " \t\n\"'`(){}[]<>=,;+*%^#~|&:.";
    rl_completer_word_break_characters = rl_basic_word_break_characters;
    rl_completion_query_items = 200;
    rl_sort_completion_matches = 0;
    rl_ignore_completion_duplicates = 0;
}
