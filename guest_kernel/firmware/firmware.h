/* The firmware's own small world: types, ports, and what its parts offer each other. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NULL ((void *)0)
#define KIB 1024u
#define MIB (1024u * KIB)

static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u32 inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory"); }

static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (u64)high << 32 | low;
}

static inline void copy(void *to, const void *from, u32 size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

static inline void zero(void *at, u32 size)
{
    u32 words = size / 4, rest = size % 4;
    __asm__ volatile("rep stosl" : "+D"(at), "+c"(words) : "a"(0) : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(0) : "memory");
}

/* serial.c */
void serial_init(void);
void say(const char *text);
void say_number(u32 number);
__attribute__((noreturn)) void give_up(const char *why); /* says why, and ends the machine */

/* memory.c */
struct memory {
    u32 low;  /* bytes below 4 GiB */
    u64 high; /* bytes above */
};
void find_memory(struct memory *memory);
u32 count_cpus(void);

/* chips.c */
void init_interrupt_controllers(void);
void init_timer(void);
u32 calibrate_tsc(void); /* in MHz */
void init_local_apic(void);

/* pci.c */
u32 init_pci(void); /* how many functions there are */
u32 pci_irq(u32 device, u32 pin);

/* mp_table.c */
void write_mp_table(u32 cpus);

/* kernel.c */
u32 load_kernel(const struct memory *memory); /* its entry point */
u32 write_start_info(const struct memory *memory);

/* start.S */
__attribute__((noreturn)) void enter(u32 entry, u32 start_info);
