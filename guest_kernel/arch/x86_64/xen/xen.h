/* The kernel as a guest of Xen's. As a PV domain: what replaces the privileged instructions and the chips of a PC. This
   is the whole list; everything else of the kernel is the same. Each function is called where native code asks on_xen().
   With a PC for a board and Xen beside it (hvm.c), only some chips are replaced: where code asks xen_events(). */
#pragma once

#include "../static_branch.h"
#include "abi.h"
#include "types.h"

struct memory_map;
struct xen_vcpu_info *xen_vcpu(void); /* this CPU's */

extern struct xen_start_info xen_start_info; /* a copy: the original's place is given up */
extern struct xen_shared_info *xen_shared;
extern u64 *xen_frame_list; /* pseudo-physical page number -> machine frame number */

/* entry.S */
i64 xen_hypercall(u64 a, u64 b, u64 c, u64 d, u64 e, u64 number);

/* setup.c */
u64 xen_boot_end(void);
u64 xen_boot_root(void);
void xen_read_memory_map(struct memory_map *map);
void xen_segments_init(u64 per_cpu);
void xen_place_grant_table(void *address, u32 frames);
void xen_traps_init(void);
void xen_fill_entry_points(struct xen_vcpu_context *context);
__attribute__((noreturn)) void xen_shutdown(u32 reason);

/* Memory that the CPU addresses by machine frames, of which Xen shows the kernel both directions. */
static inline u64 xen_machine(u64 pseudo) { return xen_frame_list[pseudo >> 12] << 12 | (pseudo & 0xFFF); }
static inline u64 xen_pseudo(u64 machine) { return ((u64 *)MACHINE_TO_PHYS)[machine >> 12] << 12; }

/* What Xen calls a page of this kernel's. */
static inline u64 xen_frame(u64 physical) { return (on_xen() ? xen_machine(physical) : physical) >> 12; }

/* mmu.c */
void xen_batch_begin(void);
void xen_batch_end(void);
void xen_pte_write(u64 *slot, u64 value);
void xen_hook_table(u64 *slot, u64 entry, bool top);
void xen_root_created(u64 root, u64 user_root);
u64 xen_user_root(u64 root);
void xen_retire(u64 root);
void xen_load_root(u64 root);
void xen_set_kernel_stack(u64 top);
void xen_flush_page(u64 address);
void xen_flush_all(void);
extern bool xen_batching; /* off: each change is a hypercall of its own */

/* events.c */
void xen_events_init(void);
void xen_rings_init(void);
void xen_irq_enable(void);
void xen_wait_for_interrupt(void);
bool xen_handle_events(void); /* was the timer's among them? */
void xen_tick_start(void);
void xen_tick_stop(void);
void xen_timer_shoot(u64 ns);
void xen_mask_all(void);
void xen_bind_call(u32 cpu);
void xen_send_call(u32 cpu);
void xen_bind(u32 port, u32 cpu);
bool xen_port_take(u32 port);
u64 xen_clock(void); /* ns */
void xen_listen(u32 port, bool on);
void xen_notify(u32 port);

/* smp.c */
void xen_find_cpus(void);
void xen_start_cpus(void);

/* hvm.c */
void xen_hvm_find(void);         /* first of all */
void xen_hvm_connect_card(void); /* once PCI has been looked at */
u32 xen_hvm_pirq_connect(void (**handler)(void)); /* a card's message as an event; 0: Xen has none */
void xen_hvm_place_grant_table(void *address, u32 frames);
const char *xen_hvm_described(void);

/* console.c */
extern const struct console_port xen_console;
void xen_console_event(void);
