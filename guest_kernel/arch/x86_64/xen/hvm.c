/* Xen beside a PC: CPUID says that it is there, an MSR fills the page of hypercalls, and shared_info is placed over a page
   of the kernel's own. If Xen gives upcalls by vector, timer and calls between CPUs are events from then on; if not, only
   split drivers have events, which come by the pin of Xen's platform device. */
#include "arch.h"
#include "console.h"
#include "channels.h"
#include "cpu.h"
#include "grants.h"
#include "pci.h"
#include "store.h"
#include "string.h"
#include "traps.h"

#define LEAF_FEATURES 1
#define FEATURE_HYPERVISOR (1u << 31) /* in ECX */
#define FIRST_LEAF 0x40000000u        /* simplified: no other interface comes first */

#define XENSOURCE 0x5853
#define PLATFORM_DEVICE 0x0001

static u8 shared_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static bool present;
static u32 features;

extern char xen_hypercall_page[];

static bool found(void)
{
    struct cpuid r = cpu_cpuid(FIRST_LEAF);
    u32 signature[3] = {r.ebx, r.ecx, r.edx};
    return !memcmp(signature, "XenVMMXenVMM", sizeof signature) && r.eax >= FIRST_LEAF + 2;
}

static bool place(u32 space, u64 index, u64 frame)
{
    struct xen_add_to_physmap where = {DOMID_SELF, 0, space, index, frame};
    return !xen_hypercall(XENMEM_ADD_TO_PHYSMAP, (u64)&where, 0, 0, 0, HYPERCALL_MEMORY_OP);
}

static bool set_callback(u64 via)
{
    struct xen_hvm_param param = {DOMID_SELF, HVM_PARAM_CALLBACK_IRQ, via};
    return !xen_hypercall(HVMOP_SET_PARAM, (u64)&param, 0, 0, 0, HYPERCALL_HVM_OP);
}

void xen_hvm_find(void)
{
    if (on_xen() || !(cpu_cpuid(LEAF_FEATURES).ecx & FEATURE_HYPERVISOR) || !found())
        return;
    cpu_write_msr(cpu_cpuid(FIRST_LEAF + 2).ebx, image_to_phys(xen_hypercall_page));
    if (!place(MAPSPACE_SHARED_INFO, 0, image_to_phys(shared_page) / PAGE_SIZE))
        return;
    present = true;
    xen_shared = (struct xen_shared_info *)shared_page;
    xen_mask_all();
    struct xen_feature_info info = {0, 0};
    xen_hypercall(XENVER_GET_FEATURES, (u64)&info, 0, 0, 0, HYPERCALL_XEN_VERSION);
    features = info.features;
    if (features & XENFEAT_HVM_CALLBACK_VECTOR && set_callback(CALLBACK_BY_VECTOR | VECTOR_XEN_EVENTS))
        static_branch_take(BRANCH_XEN_EVENTS);
}

const char *xen_hvm_described(void)
{
    return !present ? "" : xen_events() ? ", events by vector" : ", events by the platform device";
}

void xen_hvm_place_grant_table(void *address, u32 frames)
{
    for (u32 i = 0; i < frames; i++)
        if (!place(MAPSPACE_GRANT_TABLE, i, image_to_phys(address) / PAGE_SIZE + i))
            panic("Xen gives no grant table");
}

static void message(void *handler) { (*(void (**)(void))handler)(); }

u32 xen_hvm_pirq_connect(void (**handler)(void))
{
    struct {
        u32 type; /* 0: by message */
        u32 pirq;
    } free = {0, 0};
    if (!(features & XENFEAT_HVM_PIRQS) ||
        xen_hypercall(PHYSDEV_GET_FREE_PIRQ, (u64)&free, 0, 0, 0, HYPERCALL_PHYSDEV_OP))
        return 0;
    struct {
        u32 pirq, flags, port;
    } bind = {free.pirq, 0, 0};
    if (xen_hypercall(EVTCHN_BIND_PIRQ, (u64)&bind, 0, 0, 0, HYPERCALL_EVENT_CHANNEL_OP))
        return 0;
    xen_channel_listen(bind.port, message, handler);
    return free.pirq;
}

static u64 parameter(u32 index)
{
    struct xen_hvm_param param = {DOMID_SELF, index, 0};
    return xen_hypercall(HVMOP_GET_PARAM, (u64)&param, 0, 0, 0, HYPERCALL_HVM_OP) ? 0 : param.value;
}

static void upcall(void) { xen_handle_events(); }

void xen_hvm_connect_card(void)
{
    const struct pci_function *card = present ? pci_find(XENSOURCE, PLATFORM_DEVICE) : NULL;
    if (!card)
        return;
    pci_enable(card);
    if (!xen_events() && set_callback(CALLBACK_BY_PIN | (u64)(card->device << 3 | card->function) << 8))
        arch_irq_connect(card->line, true, upcall);
    xen_grants_init();
    u64 frame = parameter(HVM_PARAM_STORE_FRAME);
    if (frame)
        xen_store_init(arch_map_device(frame * PAGE_SIZE, PAGE_SIZE), (u32)parameter(HVM_PARAM_STORE_PORT));
}
