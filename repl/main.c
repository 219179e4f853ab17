/* The moonloom command: embeds LuaJIT and runs repl/main.lua of the folder that holds lua/, repl/, recipes/, data/. */
#include "shell.h"

#include <lauxlib.h>
#include <lualib.h>

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

/* Finds the home folder: MOONLOOM_HOME, else ../ or ../../ of the build folder (build/, build/asan/), else
 * ../share/moonloom of an installed one. */
static int find_home(char home[PATH_MAX]) {
    const char *given = getenv("MOONLOOM_HOME");
    if (given) return snprintf(home, PATH_MAX, "%s", given) < PATH_MAX;
    char self[PATH_MAX];
    const char *started_as = (const char *)getauxval(AT_EXECFN); /* needs no /proc, which a bare chroot has not */
    if (!started_as || !realpath(started_as, self)) return 0;
    *strrchr(self, '/') = 0;
    static const char *const places[] = {"..", "../..", "../share/moonloom"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char probe[PATH_MAX * 2];
        snprintf(probe, sizeof probe, "%s/%s/repl/main.lua", self, places[i]);
        if (access(probe, R_OK) != 0) continue;
        snprintf(probe, sizeof probe, "%s/%s", self, places[i]);
        return realpath(probe, home) != NULL;
    }
    return 0;
}

/* package.preload["repl.native"]: signals, line editing, files. */
static int open_native(lua_State *L) {
    lua_newtable(L);
    signals_register(L);
    line_register(L);
    system_register(L);
    return 1;
}

static void set_globals(lua_State *L, const char *home, int argc, char **argv) {
    lua_pushstring(L, home);
    lua_setglobal(L, "MOONLOOM_HOME");
    lua_createtable(L, argc, 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_setglobal(L, "arg");
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open_native);
    lua_setfield(L, -2, "repl.native");
    lua_pop(L, 2);
}

/* Fills the places of standard input, output and error where whoever started moonloom closed them: else the next files
 * that are opened take them, get what is printed, and libuv aborts when it closes them. Printing to a closed output
 * fails as before. */
static void fill_standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
    }
}

int main(int argc, char **argv) {
    fill_standard_files();
    char home[PATH_MAX], path[PATH_MAX + 16];
    if (!find_home(home)) {
        fprintf(stderr, "moonloom: cannot find its folders lua/ and repl/; set MOONLOOM_HOME\n");
        return 1;
    }
    lua_State *L = luaL_newstate();
    if (!L) {
        fprintf(stderr, "moonloom: out of memory\n");
        return 1;
    }
    luaL_openlibs(L);
    set_globals(L, home, argc, argv);
    snprintf(path, sizeof path, "%s/lua", home);
    signals_install(L, path);
    snprintf(path, sizeof path, "%s/repl/main.lua", home);
    int failed = luaL_loadfile(L, path) || lua_pcall(L, 0, 1, 0);
    if (failed) fprintf(stderr, "moonloom: %s\n", lua_tostring(L, -1));
    int status = failed ? 1 : (int)lua_tointeger(L, -1);
    signals_forget();
    lua_close(L);
    return status;
}
