/* A small printf: %s %c %d %u %x, `l` for 64 bits, a width, `0` to fill with zeros, `-` to fill on the right.
   It is a static function in a header because kernel and user programs share one ELF but must not share code. */
#pragma once

#include <stdarg.h>

#include "types.h"

typedef void put_char(void *to, char c);

static void format(put_char *put, void *to, const char *text, va_list arguments)
{
    for (; *text; text++) {
        if (*text != '%') {
            put(to, *text);
            continue;
        }
        bool left = false, zeros = false, is_long = false;
        int width = 0;
        text++;
        for (; *text == '-' || *text == '0'; text++)
            *text == '-' ? (left = true) : (zeros = true);
        for (; *text >= '0' && *text <= '9'; text++)
            width = width * 10 + *text - '0';
        for (; *text == 'l'; text++)
            is_long = true;

        char digits[24];
        const char *field = digits;
        int length = 0;
        if (*text == 's') {
            field = va_arg(arguments, const char *);
            while (field[length])
                length++;
        } else if (*text == 'c') {
            digits[length++] = (char)va_arg(arguments, int);
        } else { /* a number: d, u or x */
            u64 value = is_long ? va_arg(arguments, u64) : va_arg(arguments, u32);
            bool negative = false;
            if (*text == 'd') {
                i64 number = is_long ? (i64)value : (int)value;
                negative = number < 0;
                value = negative ? -(u64)number : (u64)number;
            }
            u64 base = *text == 'x' ? 16 : 10;
            char *end = digits + sizeof digits, *start = end;
            do {
                *--start = "0123456789abcdef"[value % base];
                value /= base;
            } while (value);
            if (negative)
                *--start = '-';
            field = start;
            length = (int)(end - start);
        }
        for (int i = length; !left && i < width; i++)
            put(to, zeros ? '0' : ' ');
        for (int i = 0; i < length; i++)
            put(to, field[i]);
        for (int i = length; left && i < width; i++)
            put(to, ' ');
    }
}
