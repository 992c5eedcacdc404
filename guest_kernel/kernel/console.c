/* The console: bytes received wait in a ring for read(); all output is polled. Ctrl-C ends what the shell has started;
   if there is nothing, the shell reads it as any other key.
   Simplified: one console for all processes, and no line editing here: the shell does that. */
#include "console.h"

#include "console_port.h"
#include "format.h"
#include "process.h"
#include "syscall.h"

#define RING_SIZE 256
#define INTERRUPT_KEY ('C' & 0x1F)

static char ring[RING_SIZE];
static u32 ring_in, ring_out; /* counted on for ever; in - out bytes wait */

static const struct console_port *port;

volatile bool console_interrupted;

void console_init(void)
{
    port = arch_console_port();
    port->init();
}

void console_connect(void) { port->connect(); }
void console_listen(void) { port->listen(); }

u32 console_room(void) { return RING_SIZE - (ring_in - ring_out); }

static void put_into_ring(char c)
{
    if (console_room())
        ring[ring_in++ % RING_SIZE] = c;
    wake(&ring);
}

void console_receive(char c)
{
    if (c == INTERRUPT_KEY)
        console_interrupted = true; /* in the midst of anything: console_poll() does the rest */
    else
        put_into_ring(c);
}

/* Where a process may end. What was typed before Ctrl-C is dropped, as a terminal does. */
void console_poll(void)
{
    if (!console_interrupted)
        return;
    console_interrupted = false;
    ring_out = ring_in;
    if (!process_interrupt())
        put_into_ring(INTERRUPT_KEY);
}

static void send(const char *bytes, u64 length)
{
    u64 start = 0;
    for (u64 i = 0; i < length; i++) { /* a terminal wants a carriage return before each line feed */
        if (bytes[i] == '\n') {
            port->send(bytes + start, i - start);
            port->send("\r", 1);
            start = i;
        }
    }
    port->send(bytes + start, length - start);
}

/* Waits for at least one byte. */
i64 console_read(u64 buffer, u64 length)
{
    process_at_prompt();
    while (ring_in == ring_out) {
        port->more();
        console_poll();
        if (ring_in == ring_out)
            sleep(&ring);
    }
    u64 done = 0;
    for (; done < length && ring_in != ring_out; done++, ring_out++)
        if (!vm_write(&current_process()->space, buffer + done, &ring[ring_out % RING_SIZE], 1))
            return -EFAULT;
    return (i64)done;
}

i64 console_write(u64 buffer, u64 length)
{
    char chunk[128];
    for (u64 done = 0, part; done < length; done += part) {
        part = length - done < sizeof chunk ? length - done : sizeof chunk;
        if (!vm_read(&current_process()->space, chunk, buffer + done, part))
            return -EFAULT;
        send(chunk, part);
    }
    return (i64)length;
}

struct line {
    char text[128];
    u64 length;
};

static void flush(struct line *line)
{
    send(line->text, line->length);
    line->length = 0;
}

static void put(void *to, char c)
{
    struct line *line = to;
    line->text[line->length++] = c;
    if (line->length == sizeof line->text)
        flush(line);
}

static void print(const char *text, va_list arguments)
{
    struct line line;
    line.length = 0;
    format(put, &line, text, arguments);
    flush(&line);
}

void kprintf(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    print(text, arguments);
    va_end(arguments);
}

void panic(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    kprintf("panic: ");
    print(text, arguments);
    kprintf("\n");
    va_end(arguments);
    arch_report_panic();
}
