std = "luajit"
max_line_length = 120
unused_args = false
read_globals = { "MOONLOOM_HOME" } -- set by repl/main.c
files["repl/main.lua"] = { globals = { "arg" } }
files["tests"] = { std = "luajit+busted", globals = { "arg" } }
