/* Every privileged or sensitive x86-64 instruction of the kernel, one small function each, and the constants that go
   with them. What is not here: iretq, sysretq and swapgs (entry.S), the switch to long mode (boot.S), and page-table
   writes (pte_write in paging.c). */
#pragma once

#include "static_branch.h"
#include "types.h"
#include "xen/xen.h"

#define FLAG_RESERVED 0x2ul /* always 1 */
#define FLAG_TF 0x100ul     /* single step */
#define FLAG_IF 0x200ul     /* interrupts enabled */
#define FLAG_DF 0x400ul     /* string instructions go down */
#define FLAG_NT 0x4000ul    /* nested task: an iretq would fault */
#define FLAG_AC 0x40000ul   /* alignment check */

#define MSR_APIC_BASE 0x1B
#define MSR_STAR 0xC0000081    /* selectors of SYSCALL and SYSRET */
#define MSR_LSTAR 0xC0000082   /* where SYSCALL goes */
#define MSR_SFMASK 0xC0000084  /* the flags SYSCALL clears */
#define MSR_GS_BASE 0xC0000101 /* now */
#define MSR_KERNEL_GS_BASE 0xC0000102 /* after the next swapgs */

static inline void cpu_cli(void) { __asm__ volatile("cli" ::: "memory"); }
static inline void cpu_sti(void) { __asm__ volatile("sti" ::: "memory"); }

/* STI takes effect after one more instruction, so no interrupt can slip in between and be slept through. */
static inline void cpu_sti_hlt(void) { __asm__ volatile("sti; hlt" ::: "memory"); }
static inline void cpu_pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline void cpu_hlt(void) { __asm__ volatile("hlt" ::: "memory"); }

static inline u64 cpu_flags(void)
{
    u64 flags;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags)::"memory");
    return flags;
}

/* The address of the last page fault. */
static inline u64 cpu_read_cr2(void)
{
    u64 value;
    if (on_xen())
        return xen_vcpu()->cr2;
    __asm__ volatile("movq %%cr2, %0" : "=r"(value));
    return value;
}

/* The root of the page tables. Writing it also empties the TLB, since no page is global. */
static inline u64 cpu_read_cr3(void)
{
    u64 value;
    __asm__ volatile("movq %%cr3, %0" : "=r"(value));
    return value;
}

static inline void cpu_write_cr3(u64 value) { __asm__ volatile("movq %0, %%cr3" ::"r"(value) : "memory"); }

/* The task priority: interrupts whose vector / 16 is not above it wait. */
static inline u64 cpu_read_cr8(void)
{
    u64 value;
    __asm__ volatile("movq %%cr8, %0" : "=r"(value));
    return value;
}

static inline void cpu_write_cr8(u64 value) { __asm__ volatile("movq %0, %%cr8" ::"r"(value) : "memory"); }

static inline void cpu_invlpg(u64 address) { __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory"); }

static inline u64 cpu_read_msr(u32 number)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (u64)high << 32 | low;
}

static inline void cpu_write_msr(u32 number, u64 value)
{
    __asm__ volatile("wrmsr" ::"c"(number), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* What LGDT and LIDT read. */
struct table_pointer {
    u16 limit;
    u64 base;
} __attribute__((packed));

static inline void cpu_lgdt(const struct table_pointer *table) { __asm__ volatile("lgdt %0" ::"m"(*table)); }
static inline void cpu_lidt(const struct table_pointer *table) { __asm__ volatile("lidt %0" ::"m"(*table)); }
static inline void cpu_ltr(u16 selector) { __asm__ volatile("ltr %0" ::"r"(selector)); }

static inline u8 cpu_inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void cpu_outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void cpu_outw(u16 port, u16 value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void cpu_insw(u16 port, void *to, u64 words)
{
    __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"(port) : "memory");
}

static inline void cpu_outsw(u16 port, const void *from, u64 words)
{
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(words) : "d"(port) : "memory");
}

static inline u16 cpu_inw(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u32 cpu_inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void cpu_outl(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpu_cpuid(u32 leaf)
{
    struct cpuid r;
    if (on_xen()) /* "xen" behind UD2: Xen answers instead of the CPU (arch-x86/xen.h) */
        __asm__ volatile("ud2; .ascii \"xen\"; cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
    else
        __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
    return r;
}

static inline u64 cpu_rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (u64)high << 32 | low;
}
