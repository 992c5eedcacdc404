/* The user programs' small library. */
#include "lib.h"

#include "format.h"

/* One write per call, so that what processes print does not mix within a line. */
struct line {
    char text[256];
    u64 length;
};

static void flush(struct line *line)
{
    system_call(SYS_WRITE, (u64)line->text, line->length, 0);
    line->length = 0;
}

static void put(void *to, char c)
{
    struct line *line = to;
    line->text[line->length++] = c;
    if (line->length == sizeof line->text)
        flush(line);
}

void print(const char *text, ...)
{
    struct line line;
    line.length = 0;
    va_list arguments;
    va_start(arguments, text);
    format(put, &line, text, arguments);
    va_end(arguments);
    flush(&line);
}

bool same_text(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* A decimal number and nothing else; false also if it does not fit into 64 bits. */
bool parse_number(const char *text, u64 *number)
{
    u64 value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        u64 digit = (u64)(*text - '0');
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *number = value;
    return true;
}
