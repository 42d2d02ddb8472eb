"""The migrations on a plain PostgreSQL: who may do what, and what each function of the contract does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.postgres import PostgresDatabase

ANA = "+5511987654321"


async def test_a_customer_is_made_once(database: PostgresDatabase) -> None:
    made = await database.call(
        "create_customer", {"p_key": "CA1:1", "p_phone": ANA, "p_name": "Ana", "p_locale": "pt-BR"}
    )
    assert made["outcome"] == "created"
    again = await database.call(
        "create_customer", {"p_key": "CA1:1", "p_phone": ANA, "p_name": "Ana", "p_locale": "pt-BR"}
    )
    assert again == made
