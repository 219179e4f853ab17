/* What the shell asks of the system: terminal, process, folders. */
#include "shell.h"

#include <lauxlib.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* native.is_terminal(fd) -> boolean */
static int native_is_terminal(lua_State *L) {
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* native.columns() -> width of the terminal on standard output, 80 if it is none */
static int native_columns(lua_State *L) {
    struct winsize size;
    int known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    lua_pushinteger(L, known ? size.ws_col : 80);
    return 1;
}

/* native.process() -> id of this process */
static int native_process(lua_State *L) {
    lua_pushinteger(L, getpid());
    return 1;
}

/* native.make_folders(path) -> whether the folder `path` is there, made with its parents (readable by the user only)
 * if it was not */
static int native_make_folders(lua_State *L) {
    size_t length;
    const char *given = luaL_checklstring(L, 1, &length);
    char *path = strdup(given);
    if (!path) return luaL_error(L, "out of memory");
    for (size_t i = 1; i < length; i++) {
        if (path[i] != '/') continue;
        path[i] = 0;
        mkdir(path, 0700); /* the last one tells */
        path[i] = '/';
    }
    struct stat found;
    int there = mkdir(path, 0700) == 0 || (stat(path, &found) == 0 && S_ISDIR(found.st_mode));
    free(path);
    lua_pushboolean(L, there);
    return 1;
}

/* native.list_folder(path) -> its entries in no order, folders with a slash at the end; nil if it cannot be read */
static int native_list_folder(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    DIR *folder = opendir(path);
    if (!folder) return 0;
    lua_newtable(L);
    struct dirent *entry;
    for (int count = 0; (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        struct stat found;
        int is_folder = fstatat(dirfd(folder), entry->d_name, &found, 0) == 0 && S_ISDIR(found.st_mode);
        lua_pushfstring(L, "%s%s", entry->d_name, is_folder ? "/" : "");
        lua_rawseti(L, -2, ++count);
    }
    closedir(folder);
    return 1;
}

void system_register(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"is_terminal", native_is_terminal},   {"columns", native_columns},         {"process", native_process},
        {"make_folders", native_make_folders}, {"list_folder", native_list_folder}, {NULL, NULL},
    };
    luaL_register(L, NULL, functions);
}
