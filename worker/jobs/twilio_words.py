"""What Twilio's refusals mean, in sentences for the model. Pure.

Only codes whose meaning stands in Twilio's error dictionary are here; every other one gets general words and its number in
the log.

Source: Twilio docs, Error and Warning Dictionary (each code's page).
"""

from typing import Final

CHECK_NUMBER: Final = "Check the number with the caller, or offer another way."
OFFER_ANOTHER: Final = "Do not try again now; offer the caller another way."
OUR_FAULT: Final = "This is not the caller's fault: say that messages do not work at the moment, and offer another way."

WORDS: Final[dict[str, str]] = {
    "20003": f"The message was not sent: our messaging account was not accepted. {OUR_FAULT}",
    "20005": f"The message was not sent: our messaging account is not active. {OUR_FAULT}",
    "20429": f"The message was not sent: too much is being sent at the moment. {OFFER_ANOTHER}",
    "21211": f"The message was not sent: that is not a valid phone number. {CHECK_NUMBER}",
    "21408": f"The message was not sent: we cannot write to numbers of that country. {OFFER_ANOTHER}",
    "21608": f"The message was not sent: our messaging account may only write to numbers it has verified. {OUR_FAULT}",
    "21610": "The message was not sent: this person has asked not to get messages from us. Do not send any.",
    "21614": f"The message was not sent: that is not a mobile number. {CHECK_NUMBER}",
    "21617": "The message was not sent: it is too long. Send a shorter one, of at most a few sentences.",
    "21655": f"The message was not sent: our message template does not exist. {OUR_FAULT}",
    "21656": f"The message was not sent: our message template does not take this text. {OUR_FAULT}",
    "21658": "The message was not sent: it is too long. Send a shorter one, of at most a few sentences.",
    "63003": f"The message was not sent: that number is not on WhatsApp. {CHECK_NUMBER}",
    "63007": f"The message was not sent: our number is not set up for WhatsApp. {OUR_FAULT}",
    "63014": "The message was not sent: this person has blocked messages from us. Do not send any.",
    "63016": (
        "The message was not sent: WhatsApp lets us write freely only within a day of the customer's last message to us. "
        "Ask the caller to send us a WhatsApp message first, or offer another way."
    ),
    "63018": f"The message was not sent: we have sent too many WhatsApp messages for now. {OFFER_ANOTHER}",
    "63021": "The message was not sent: WhatsApp does not take this text. Send a shorter and simpler one.",
}

OTHER: Final = f"The message was not sent: WhatsApp refused it. {OFFER_ANOTHER}"
NOBODY_KNOWS: Final = (
    "Nobody knows whether the message was sent. Do not send it again; tell the caller that it has to be checked."
)
TOO_LATE: Final = f"The message was not sent: the messaging service could not be reached in time. {OFFER_ANOTHER}"


def refusal(code: str) -> str:
    """Say what a refusal means for who is on the telephone."""
    return WORDS.get(code, OTHER)
