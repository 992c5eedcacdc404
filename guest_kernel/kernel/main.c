/* The kernel's start, once the architecture has reached C. */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "kernel_bench.h"
#include "net.h"
#include "pci.h"
#include "process.h"

void kmain(u64 boot_info)
{
    struct memory_map map;

    arch_find_hypervisor();
    arch_traps_init();
    console_init();
    kprintf("\nhv guest kernel, %s\n", ARCH_NAME);
    arch_read_memory_map(boot_info, &map);
    arch_find_cpus();
    frames_init(&map);
    arch_paging_init(&map);
    arch_interrupts_init();
    console_connect();
    pci_scan();
    arch_connect_hypervisor();
    arch_print_platform();
    arch_start_cpus();
    net_init();
    block_init();
    process_init();
    process_start_first();
    console_listen();
    hv_mark_end(); /* of the operation boot.boot, which began at reset */
    schedule(); /* and never back: nothing switches to this stack again */
    panic("the scheduler returned");
}
