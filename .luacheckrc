std = "luajit"
max_line_length = 120
unused_args = false
files["tests"] = { std = "luajit+busted" }
