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

static void cpus_command(int count, char *words[])
{
    (void)count, (void)words;
    system_call(SYS_CPUS, true, 0, 0);
}

static void shootdown_command(int count, char *words[])
{
    (void)count, (void)words;
    i64 result = system_call(SYS_SHOOTDOWN, 0, 0, 0);
    print("shootdown: %s\n", !result ? "it works" : result == -ENODEV ? "this machine has one CPU" : "it does not work");
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
        if (cycles == -EINTR)
            return;
        if (cycles < 0)
            print("%s: sequence %lu: %s\n", words[1], i, cycles == -EHOSTUNREACH ? "nobody has this address" : "no answer");
        else
            print("%s: sequence %lu: answer after %lu cycles\n", words[1], i, (u64)cycles);
    }
}

/* Places of disks by their names. */
static const char *const disk_names[DISK_PLACES] = {"local", "remote"};

static const char *disk_error(i64 error)
{
    return error == -ENODEV ? "there is no such disk" : error == -EINVAL ? "no such block" : "input/output error";
}

/* The disk that the first word names, and the block of the second if there must be one. False: it says what is wrong. */
static bool find_disk(int count, char *words[], int wanted, const char *usage, u64 *place, u64 *number)
{
    for (*place = 0; count > 1 && *place < DISK_PLACES; (*place)++)
        if (same_text(words[1], disk_names[*place]))
            break;
    if (count < wanted || *place == DISK_PLACES || (wanted > 2 && !parse_number(words[2], number))) {
        print("%s: usage: %s %s\n", words[0], words[0], usage);
        return false;
    }
    return true;
}

static char block_data[BLOCK_SIZE];

/* A line for each 16 bytes: where, their values, and what they are as text. */
static void cat_command(int count, char *words[])
{
    u64 place, number;
    if (!find_disk(count, words, 3, "local|remote NUMBER", &place, &number))
        return;
    i64 error = system_call(SYS_BLOCK_READ, place, number, (u64)block_data);
    if (error) {
        print("cat: %s\n", disk_error(error));
        return;
    }
    for (u64 at = 0; at < 256; at += 16) {
        print("%04lx ", at);
        for (u64 i = at; i < at + 16; i++)
            print(" %02x", (unsigned char)block_data[i]);
        print("  ");
        for (u64 i = at; i < at + 16; i++)
            print("%c", block_data[i] >= ' ' && block_data[i] < DELETE ? block_data[i] : '.');
        print("\n");
    }
}

/* Words into the beginning of a block, with a line feed behind them; the rest of it stays. */
static void write_command(int count, char *words[])
{
    u64 place, number, at = 0;
    if (!find_disk(count, words, 4, "local|remote NUMBER TEXT", &place, &number))
        return;
    i64 error = system_call(SYS_BLOCK_READ, place, number, (u64)block_data);
    for (int i = 3; i < count; i++) {
        for (const char *c = words[i]; *c; c++)
            block_data[at++] = *c;
        block_data[at++] = i + 1 < count ? ' ' : '\n';
    }
    if (!error)
        error = system_call(SYS_BLOCK_WRITE, place, number, (u64)block_data);
    if (error)
        print("write: %s\n", disk_error(error));
}

static void flush_command(int count, char *words[])
{
    u64 place;
    if (!find_disk(count, words, 2, "local|remote", &place, NULL))
        return;
    i64 error = system_call(SYS_BLOCK_FLUSH, place, 0, 0);
    print("flush: %s\n", error ? disk_error(error) : "done");
}

/* Lists the disks, or has the CPU move a disk's data (pio) instead of the disk itself (dma). */
static void disks_command(int count, char *words[])
{
    u64 place;
    struct disk_info info;
    if (count == 1) {
        for (place = 0; place < DISK_PLACES; place++)
            if (system_call(SYS_DISK_INFO, place, (u64)&info, 0) == 0)
                print("%-7s %s, %lu blocks of %u bytes\n", disk_names[place], info.model, info.blocks, BLOCK_SIZE);
        return;
    }
    bool pio = count > 2 && same_text(words[2], "pio"), dma = count > 2 && same_text(words[2], "dma");
    if (!find_disk(pio || dma ? 2 : 0, words, 2, "[local|remote dma|pio]", &place, NULL))
        return;
    if (system_call(SYS_DISK_PIO, place, pio, 0) != 0)
        print("disks: this disk has no choice of the two\n");
}

static char store_path[STORE_PATH], store_names[STORE_ANSWER], store_value[STORE_ANSWER];

/* Puts text behind the path; returns how long it was before. */
static u64 extend_path(const char *text)
{
    u64 length = 0, at;
    while (store_path[length])
        length++;
    for (at = length; *text && at + 1 < STORE_PATH; at++)
        store_path[at] = *text++;
    store_path[at] = 0;
    return length;
}

static i64 ask_store(enum store_question question, char *answer)
{
    return system_call(SYS_STORE, question, (u64)store_path, (u64)answer);
}

/* A node's children with their values, or its value. Alone: those of this domain. */
static void xenstore_command(int count, char *words[])
{
    bool list = count < 2 || same_text(words[1], "ls");
    if ((count > 1 && !list && !same_text(words[1], "read")) || (!list && count < 3)) {
        print("xenstore: usage: xenstore ls [PATH] or xenstore read PATH\n");
        return;
    }
    store_path[0] = 0;
    extend_path(count > 2 ? words[2] : "domid");
    i64 length = ask_store(STORE_VALUE, store_value);
    if (count < 3 && length >= 0) {
        store_path[0] = 0;
        extend_path("/local/domain/");
        extend_path(store_value);
    }
    if (list && length >= 0)
        length = ask_store(STORE_NAMES, store_names);
    if (length < 0)
        print("xenstore: %s\n", length == -ENODEV ? "this machine has none" : length == -EACCES ? "not for this domain"
                                                                                               : "there is no such node");
    else if (!list)
        print("%s\n", store_value);
    for (const char *name = store_names; list && name < store_names + length; name++) {
        u64 before = extend_path(same_text(store_path, "/") ? "" : "/");
        extend_path(name);
        print("%s = \"%s\"\n", name, ask_store(STORE_VALUE, store_value) < 0 ? "" : store_value);
        store_path[before] = 0;
        while (*name)
            name++;
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
    {"cpus", cpus_command, "the CPUs"},
    {"shootdown", shootdown_command, "replace a page that another CPU looks at"},
    {"bench", bench_command, "NAME [N [SEED]]: measure an operation; alone: list them"},
    {"ping", ping_command, "ADDRESS [COUNT]: ask a host for an echo"},
    {"disks", disks_command, "[local|remote dma|pio]: list them, or choose who moves the data"},
    {"cat", cat_command, "local|remote NUMBER: show the beginning of a block of 4 KiB"},
    {"write", write_command, "local|remote NUMBER TEXT: put text at the beginning of a block"},
    {"flush", flush_command, "local|remote: what was written is on the disk's medium"},
    {"xenstore", xenstore_command, "[ls [PATH]] or read PATH: what Xen's store tells this domain"},
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
