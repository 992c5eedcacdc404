/* The shell's command `bench`. */
#pragma once

void bench_command(int count, char *words[]);
