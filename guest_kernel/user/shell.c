/* The shell, process 1: reads a line, runs the command that it names.
   Simplified: commands are functions of the shell, and words are separated by spaces only. */
#include "bench_command.h"
#include "lib.h"

#define LINE_LENGTH 128
#define MAX_WORDS 8

#define CTRL(letter) ((letter) & 0x1F)
#define DELETE 0x7F

static char line[LINE_LENGTH];

static void power_off(void) { system_call(SYS_POWEROFF, 0, 0, 0); }

static char read_key(void)
{
    char key = 0;
    system_call(SYS_READ, (u64)&key, 1, 0);
    return key;
}

static void prompt(void) { print("hv> "); }

/* Reads and echoes one line; Ctrl-C drops what was typed, Ctrl-D on an empty line switches off. */
static void read_line(void)
{
    u64 length = 0;
    prompt();
    for (;;) {
        char key = read_key();
        if (key == '\r' || key == '\n') {
            print("\n");
            line[length] = 0;
            return;
        }
        if (key == CTRL('C')) {
            print("^C\n");
            prompt();
            length = 0;
        } else if (key == CTRL('D') && length == 0) {
            print("\n");
            power_off();
        } else if ((key == '\b' || key == DELETE) && length > 0) {
            print("\b \b");
            length--;
        } else if (key >= ' ' && key < DELETE && length < LINE_LENGTH - 1) {
            print("%c", key);
            line[length++] = key;
        }
    }
}

static int split(char *text, char *words[])
{
    int count = 0;
    while (count < MAX_WORDS) {
        while (*text == ' ')
            *text++ = 0;
        if (!*text)
            break;
        words[count++] = text;
        while (*text && *text != ' ')
            text++;
    }
    return count;
}

static void echo_command(int count, char *words[])
{
    for (int i = 1; i < count; i++)
        print(i > 1 ? " %s" : "%s", words[i]);
    print("\n");
}

static void ps_command(int count, char *words[])
{
    (void)count, (void)words;
    system_call(SYS_PS, 0, 0, 0);
}

static void mem_command(int count, char *words[])
{
    struct memory_info info;
    (void)count, (void)words;
    system_call(SYS_MEMORY, (u64)&info, 0, 0);
    print("%lu KiB, %lu KiB free, of which %lu KiB never used\n", info.total * 4, info.free * 4, info.fresh * 4);
}

/* An address in its usual form; false if it is none. */
static bool parse_address(const char *text, u64 *address)
{
    *address = 0;
    for (int i = 0; i < 4; i++) {
        u64 part = 0;
        if (*text < '0' || *text > '9')
            return false;
        for (; *text >= '0' && *text <= '9' && part < 256; text++)
            part = part * 10 + (u64)(*text - '0');
        if (part > 255 || *text++ != (i < 3 ? '.' : 0))
            return false;
        *address = *address << 8 | part;
    }
    return true;
}

static void ping_command(int count, char *words[])
{
    u64 address, times = 4;
    if (count < 2 || count > 3 || !parse_address(words[1], &address) || (count == 3 && !parse_number(words[2], &times))) {
        print("ping: usage: ping ADDRESS [COUNT], for example ping 10.0.2.2\n");
        return;
    }
    for (u64 i = 1; i <= times; i++) {
        i64 cycles = system_call(SYS_PING, address, i, 0);
        if (cycles == -ENODEV) {
            print("ping: this machine has no network card\n");
            return;
        }
        if (cycles < 0)
            print("%s: sequence %lu: %s\n", words[1], i, cycles == -EHOSTUNREACH ? "nobody has this address" : "no answer");
        else
            print("%s: sequence %lu: answer after %lu cycles\n", words[1], i, (u64)cycles);
    }
}

static void poweroff_command(int count, char *words[])
{
    (void)count, (void)words;
    power_off();
}

/* A loop of the common kinds of instructions that never ends soon; hv bench also runs it outside any guest. */
__attribute__((noinline)) u64 spin_work(volatile u64 *counter)
{
    u64 mixed = 1;
    for (*counter = 0; *counter < 200000000; (*counter)++) {
        mixed = mixed * 6364136223846793005u + 1442695040888963407u;
        if (mixed >> 63)
            mixed ^= *counter;
    }
    return mixed;
}

/* Two processes that count at the same time, while the shell goes on. */
static void spin_command(int count, char *words[])
{
    (void)count, (void)words;
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            set_name("spin");
            volatile u64 counter;
            print("spin: process %lu has %lx\n", getpid(), spin_work(&counter));
            exit(0);
        }
    }
}

static __attribute__((noinline)) void crash_inner_user(volatile int *where) { *where = 1; }

static void crash_command(int count, char *words[])
{
    if (count == 1) {
        system_call(SYS_CRASH, CRASH_NULL_WRITE, 0, 0);
    } else if (same_text(words[1], "stack")) {
        system_call(SYS_CRASH, CRASH_STACK_OVERFLOW, 0, 0);
    } else if (same_text(words[1], "user")) {
        if (fork() == 0) {
            set_name("crash");
            crash_inner_user(NULL);
        }
        wait(NULL, false);
    } else {
        print("crash: how? crash, crash user, crash stack\n");
    }
}

static void help_command(int count, char *words[]);

static const struct command {
    const char *name;
    void (*run)(int count, char *words[]);
    const char *help; /* NULL: not shown */
} commands[] = {
    {"help", help_command, "this list"},
    {"ps", ps_command, "the processes"},
    {"mem", mem_command, "physical memory"},
    {"bench", bench_command, "NAME [N [SEED]]: measure an operation; alone: list them"},
    {"ping", ping_command, "ADDRESS [COUNT]: ask a host for an echo"},
    {"echo", echo_command, "print the words"},
    {"spin", spin_command, "two processes that compute in the background"},
    {"poweroff", poweroff_command, "switch the machine off (also Ctrl-D)"},
    {"crash", crash_command, NULL},
};

#define COMMANDS (sizeof commands / sizeof *commands)

static void help_command(int count, char *words[])
{
    (void)count, (void)words;
    for (u64 i = 0; i < COMMANDS; i++)
        if (commands[i].help)
            print("%-9s %s\n", commands[i].name, commands[i].help);
}

static void run_command(int count, char *words[])
{
    for (u64 i = 0; i < COMMANDS; i++) {
        if (same_text(commands[i].name, words[0])) {
            commands[i].run(count, words);
            return;
        }
    }
    print("%s: unknown command, try help\n", words[0]);
}

void shell_main(void)
{
    print("type help for the commands\n");
    for (;;) {
        char *words[MAX_WORDS];
        read_line();
        int count = split(line, words);
        if (count)
            run_command(count, words);
        while (wait(NULL, true) > 0) /* background processes that have ended */
            ;
    }
}
