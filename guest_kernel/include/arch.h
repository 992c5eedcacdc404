/* All that the kernel asks of an instruction set. arch/<isa>/ provides it; kernel/, drivers/ and user/ know no other.
   isa.h, from arch/<isa>/, adds what is a type or a single instruction: pte, trap_frame, arch_this_cpu(),
   arch_irq_enable() and arch_irq_disable(), arch_io_read() ... */
#pragma once

#include "isa.h"
#include "types.h"

struct memory_map;
struct process;

/* Start-up, in this order. */
void arch_find_hypervisor(void); /* that the kernel can talk to */
void arch_traps_init(void);
void arch_read_memory_map(u64 boot_info, struct memory_map *map);
void arch_find_cpus(void);
u64 arch_image_end(void); /* physical address after the kernel's image */
u64 arch_image_digest(u64 digest); /* adds what of the image never changes */
void arch_paging_init(const struct memory_map *map);
void arch_interrupts_init(void);
void arch_connect_hypervisor(void); /* once PCI has been looked at */
void arch_print_platform(void);
void arch_start_cpus(void);

/* Page tables. A leaf slot is written with pte_write() alone. */
u64 arch_space_create(void);
void arch_space_retire(u64 root);
void arch_space_free(u64 root);
void arch_space_load(u64 root);
void arch_space_load_kernel(void); /* the kernel's half alone */
pte *arch_leaf_slot(u64 root, u64 address, bool create);
pte *arch_next_page(u64 root, u64 *address, u64 end);
void arch_unmap_kernel_page(u64 address);
pte *arch_scratch_slot(void); /* of one kernel page that is mapped to nothing yet */
void *arch_scratch_page(void);

/* Processes. */
void arch_process_prepare(struct process *process, u64 entry, u64 stack);
void arch_process_prepare_fork(struct process *child, const struct trap_frame *parent);
void arch_process_recover(struct process *process, enum fault_cause cause, u64 address);
u64 arch_process_instruction(const struct process *process);
void arch_switch(struct process *from, struct process *to);

/* Other CPUs. */
void arch_send_call(u32 cpu); /* an interrupt, in which that one runs cpu_call_received() */
/* Interrupts of devices: `line` as a PC counts them. The handler runs with interrupts off. */
void arch_irq_connect(u32 line, bool level, void (*handler)(void));
void arch_end_of_interrupt(void);
/* Interrupts that a card sends by writing to memory. Returns what it must write; arch_message_address() says where,
   until another one is connected. */
u32 arch_message_connect(void (*handler)(void));
u64 arch_message_address(void);
void *arch_map_device(u64 physical, u64 size); /* registers, for good */

/* What this machine is without: why a kernel operation (bench.h) has nothing to work on, or NULL; its devices. */
const char *arch_lacks(u64 operation);
bool arch_has_pci(void);
i64 arch_store(u64 question, const char *path, char *to, u64 size); /* -ENODEV: nobody keeps a store for it */

/* Time and the end of it. */
struct clock_rates {
    u64 cycles_hz; /* of arch_cycles() */
    u64 timer_hz;
};
struct clock_rates arch_clock_calibrate(void);
void arch_tick_start(void);
void arch_tick_stop(void);
void arch_timer_single(bool on); /* instead of the tick: */
void arch_timer_shoot(void);     /* expires once, some microseconds from now */
extern volatile u64 arch_timer_expiries;
__attribute__((noreturn)) void arch_power_off(void);
__attribute__((noreturn)) void arch_report_panic(void);

/* Called by the architecture. */
__attribute__((noreturn)) void kmain(u64 boot_info);
i64 syscall(u64 number, u64 a, u64 b, u64 c);
