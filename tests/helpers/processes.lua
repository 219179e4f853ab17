-- fork() and what a test needs around it, declared for ffi.C.
require("ffi").cdef [[
int fork(void);
void _exit(int status);
int kill(int process, int signal);
int waitpid(int process, int *status, int options);
int usleep(unsigned microseconds);
]]
