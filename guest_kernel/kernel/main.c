/* The kernel's start, once the architecture has reached C. */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "net.h"
#include "process.h"

void kmain(u64 boot_info)
{
    struct memory_map map;

    arch_traps_init();
    console_init();
    kprintf("\nhv guest kernel, %s\n", ARCH_NAME);
    arch_read_memory_map(boot_info, &map);
    frames_init(&map);
    arch_paging_init(&map);
    arch_interrupts_init();
    arch_print_platform();
    net_init();
    block_init();
    process_init();
    process_start_first();
    console_listen(true);
    schedule(); /* and never back: nothing switches to this stack again */
    panic("the scheduler returned");
}
