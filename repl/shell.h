/* shell.h - what the C files of the moonloom command know of each other. */
#ifndef MOONLOOM_SHELL_H
#define MOONLOOM_SHELL_H

#include <lua.h>

/* Installs the handlers of SIGINT, SIGTERM, SIGHUP, SIGPIPE and SIGALRM. Lua code of the folder `library` (thin objects
 * over the core, whose calls poll for the interrupt themselves) is never interrupted between two of its instructions.
 */
void signals_install(lua_State *L, const char *library);
/* Forgets the Lua state before it is closed. */
void signals_forget(void);
/* Tells whether Ctrl-C was pressed since the last call, and forgets it. */
int signals_take_interrupt(void);
/* Whether Ctrl-C was pressed and not yet taken. */
int signals_interrupted(void);
/* Remembers how the terminal is set, to put it back if the program ends before signals_release_terminal(). */
void signals_hold_terminal(void);
void signals_release_terminal(void);
/* lua_pcall() during which Ctrl-C raises the interrupt error: pops the function and `arguments`, calls the function
 * with the message handler at stack index `handler` (0 for none), and returns lua_pcall's status. */
int signals_call(lua_State *L, int arguments, int results, int handler);

/* Add their functions to the table on top of the stack, which becomes `require "repl.native"`. */
void signals_register(lua_State *L);
void line_register(lua_State *L);
void system_register(lua_State *L);

#endif
