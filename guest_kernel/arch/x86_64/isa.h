/* x86-64's part of include/arch.h: its types, and what is one instruction or two. */
#pragma once

#include "cpu.h"
#include "memory_layout.h"
#include "syscall.h"
#include "types.h"

#define ARCH_NAME "x86-64"

/* A page-table entry, the same in all four levels. */
typedef u64 pte;

#define PTE_PRESENT 0x001ul
#define PTE_WRITE 0x002ul
#define PTE_USER 0x004ul
#define PTE_CACHE_OFF 0x010ul        /* for device registers */
#define PTE_LARGE 0x080ul            /* in the second level: a page of 2 MiB */
#define PTE_NO_EXECUTE (1ul << 63)
#define PTE_ADDRESS 0x000FFFFFFFFFF000ul

/* The only function that changes a page-table entry. */
void pte_write(pte *slot, pte value);

static inline pte pte_make(u64 frame, u32 prot)
{
    if (on_xen())
        frame = xen_machine(frame);
    return frame | PTE_PRESENT | (prot & PROT_WRITE ? PTE_WRITE : 0) | (prot & PROT_USER ? PTE_USER : 0) |
           (prot & PROT_EXEC ? 0 : PTE_NO_EXECUTE);
}

static inline bool pte_present(pte entry) { return entry & PTE_PRESENT; }
static inline bool pte_writable(pte entry) { return entry & PTE_WRITE; }
static inline u64 pte_frame(pte entry)
{
    if (on_xen())
        return xen_pseudo(entry & PTE_ADDRESS);
    return entry & PTE_ADDRESS;
}
static inline pte pte_read_only(pte entry) { return entry & ~PTE_WRITE; }

static inline void arch_flush_page(u64 address)
{
    if (on_xen())
        xen_flush_page(address);
    else
        cpu_invlpg(address);
}

/* Empties the TLB; `root` is the address space that is loaded. */
static inline void arch_flush_all(u64 root)
{
    if (on_xen())
        xen_flush_all();
    else
        cpu_write_cr3(root);
}

/* Between these two, changes of page tables may wait, so that a hypervisor can be told of many at once. No entry that
   was written may be read meanwhile. */
static inline void arch_batch_begin(void)
{
    if (on_xen())
        xen_batch_begin();
}

static inline void arch_batch_end(void)
{
    if (on_xen())
        xen_batch_end();
}

/* The registers of what was interrupted, in the order in which entry.S pushes them, last first. */
struct trap_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector;
    u64 error;                    /* 0 where the CPU has none */
    u64 rip, cs, rflags, rsp, ss; /* pushed by the CPU */
};

/* GS holds this CPU's struct while the kernel runs. */
static inline struct cpu *arch_this_cpu(void)
{
    struct cpu *cpu;
    __asm__("movq %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

static inline void arch_irq_enable(void)
{
    if (on_xen())
        xen_irq_enable();
    else
        cpu_sti();
}

static inline void arch_irq_disable(void)
{
    if (on_xen())
        __atomic_store_n(&xen_vcpu()->mask, 1, __ATOMIC_SEQ_CST);
    else
        cpu_cli();
}

static inline bool arch_irq_enabled(void)
{
    if (on_xen())
        return !xen_vcpu()->mask;
    return cpu_flags() & FLAG_IF;
}

/* Sleeps until an interrupt has been handled. */
static inline void arch_wait_for_interrupt(void)
{
    if (on_xen()) {
        xen_wait_for_interrupt();
        return;
    }
    cpu_sti_hlt();
    cpu_cli();
}

/* In a loop that waits by looking. The CPU takes some time over it, which costs nothing where it waits anyway. */
static inline void arch_pause(void) { cpu_pause(); }

/* Device registers that are not memory: ports. */
static inline u8 arch_io_read(u64 address) { return cpu_inb((u16)address); }
static inline void arch_io_write(u64 address, u8 value) { cpu_outb((u16)address, value); }
static inline u16 arch_io_read16(u64 address) { return cpu_inw((u16)address); }
static inline void arch_io_write16(u64 address, u16 value) { cpu_outw((u16)address, value); }
static inline u32 arch_io_read32(u64 address) { return cpu_inl((u16)address); }
static inline void arch_io_write32(u64 address, u32 value) { cpu_outl((u16)address, value); }
/* A port through which a block of data passes, 16 bits at a time. */
static inline void arch_io_read_block(u64 address, void *to, u64 words) { cpu_insw((u16)address, to, words); }
static inline void arch_io_write_block(u64 address, const void *from, u64 words) { cpu_outsw((u16)address, from, words); }

/* Device registers in memory: one plain MOV each, whatever the compiler would rather do. */
static inline u32 arch_register_read(const volatile void *address)
{
    u32 value;
    __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*(const volatile u32 *)address) : "memory");
    return value;
}

static inline void arch_register_write(volatile void *address, u32 value)
{
    __asm__ volatile("movl %1, %0" : "=m"(*(volatile u32 *)address) : "r"(value) : "memory");
}

static inline u64 arch_cycles(void) { return cpu_rdtsc(); }

static inline void arch_zero_page(void *page)
{
    u64 words = PAGE_SIZE / 8;
    __asm__ volatile("rep stosq" : "+D"(page), "+c"(words) : "a"(0) : "memory");
}

/* For the benchmark operations of the same names. */

/* CPUID, and of its answer the bits that are the same on every machine this kernel runs on. */
static inline u64 arch_cpuid(void)
{
    const u32 fpu = 1, tsc = 1 << 4, msr = 1 << 5, pae = 1 << 6, cx8 = 1 << 8, cmov = 1 << 15;
    return cpu_cpuid(1).edx & (fpu | tsc | msr | pae | cx8 | cmov);
}

static inline u64 arch_cpuid_extended(void)
{
    const u32 syscall_sysret = 1 << 11, no_execute = 1 << 20, long_mode = 1 << 29;
    return cpu_cpuid(0x80000001).edx & (syscall_sysret | no_execute | long_mode);
}

/* Port 0x80 shows BIOS progress codes: reading it does nothing, slowly. */
static inline void arch_in(void) { cpu_inb(0x80); }

/* Interrupts of this priority class and below wait. Class 1 is the vectors 0x10 to 0x1F, which none has. */
static inline void arch_write_priority(u64 value) { cpu_write_cr8(value); }
static inline u64 arch_read_priority(void) { return cpu_read_cr8(); }
