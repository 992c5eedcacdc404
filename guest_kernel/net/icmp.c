/* ICMP echo (RFC 792): answers those who ask, and asks. */
#include "arch.h"
#include "console.h"
#include "layers.h"
#include "string.h"
#include "syscall.h"

struct echo {
    u8 type, code;
    u16 checksum;
    u16 identifier, sequence;
} __attribute__((packed));
#define ECHO_REPLY 0
#define ECHO_REQUEST 8

#define IDENTIFIER 0x6876
#define DATA_LENGTH 56 /* as ping has it everywhere */

static u16 awaited;
static bool answered;

static bool send(u32 to, u64 length)
{
    struct echo *echo = (struct echo *)(net_frame + IP_PAYLOAD);
    echo->checksum = 0;
    echo->checksum = swap16(checksum(echo, length, 0));
    return ipv4_send(to, PROTOCOL_ICMP, length, false);
}

void icmp_receive(u32 from, const u8 *message, u64 length)
{
    const struct echo *echo = (const struct echo *)message;
    if (length < sizeof *echo || length > IP_PAYLOAD_MAX || checksum(message, length, 0))
        return;
    if (echo->type == ECHO_REQUEST) {
        memcpy(net_frame + IP_PAYLOAD, message, length);
        ((struct echo *)(net_frame + IP_PAYLOAD))->type = ECHO_REPLY;
        send(from, length);
    } else if (echo->type == ECHO_REPLY && echo->identifier == swap16(IDENTIFIER)) {
        answered |= echo->sequence == swap16(awaited);
    }
}

static bool is_answered(void) { return answered; }

/* One echo request. Returns the cycles until its answer, or an error. */
i64 icmp_ping(u32 address, u64 sequence)
{
    if (!net_present())
        return -ENODEV;
    if (!arp_resolve(address))
        return console_interrupted ? -EINTR : -EHOSTUNREACH;
    struct echo *echo = (struct echo *)(net_frame + IP_PAYLOAD);
    *echo = (struct echo){.type = ECHO_REQUEST, .identifier = swap16(IDENTIFIER), .sequence = swap16((u16)sequence)};
    for (u32 i = 0; i < DATA_LENGTH; i++)
        ((u8 *)(echo + 1))[i] = (u8)i;
    awaited = (u16)sequence;
    answered = false;
    u64 start = arch_cycles();
    if (!send(address, sizeof *echo + DATA_LENGTH))
        return -EAGAIN;
    arch_irq_enable();
    bool in_time = net_wait(is_answered);
    arch_irq_disable();
    if (in_time)
        return (i64)(arch_cycles() - start);
    return console_interrupted ? -EINTR : -ETIMEDOUT;
}
