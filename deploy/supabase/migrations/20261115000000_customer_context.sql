-- Who calls: customers, what is known about them, their appointments, and the one function a prefetch asks.
--
-- Only the secret key (service role) reads these tables and calls the function: row level security is on and no policy
-- lets anybody else in. Phones are E.164 with the plus, as Twilio sends them.

-- Supabase has these roles; a plain PostgreSQL does not. Where they exist nothing happens.
do $$
begin
  if not exists (select from pg_roles where rolname = 'anon') then create role anon nologin; end if;
  if not exists (select from pg_roles where rolname = 'authenticated') then create role authenticated nologin; end if;
  if not exists (select from pg_roles where rolname = 'service_role') then create role service_role nologin bypassrls; end if;
end
$$;

create table customers (
  id bigint generated always as identity primary key,
  phone text not null unique check (phone ~ '^\+[1-9][0-9]{6,14}$'),
  name text,
  locale text not null default 'en',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table customer_facts (
  id bigint generated always as identity primary key,
  customer_id bigint not null references customers on delete cascade,
  key text not null,
  value jsonb not null,
  source text,
  updated_at timestamptz not null default now(),
  unique (customer_id, key)
);

create table appointments (
  id bigint generated always as identity primary key,
  customer_id bigint not null references customers on delete cascade,
  starts_at timestamptz not null,
  ends_at timestamptz,
  status text not null default 'booked',
  notes text
);

create index appointments_by_customer on appointments (customer_id, starts_at);

alter table customers enable row level security;
alter table customer_facts enable row level security;
alter table appointments enable row level security;

-- One document in one round trip; null when nobody has this number. Keep it small: what is over 32 kB is not used, and
-- it all goes into a prompt.
create function customer_context(p_phone text) returns jsonb
language sql stable security invoker set search_path = public as $$
  select jsonb_build_object(
    'customer', to_jsonb(c) - 'created_at' - 'updated_at',
    'facts', coalesce(
      (select jsonb_object_agg(f.key, f.value) from customer_facts f where f.customer_id = c.id), '{}'::jsonb),
    'next', coalesce(
      (select jsonb_agg(to_jsonb(a) order by a.starts_at)
       from (select starts_at, status from appointments
             where customer_id = c.id and starts_at > now()
             order by starts_at limit 3) a), '[]'::jsonb))
  from customers c
  where c.phone = p_phone
$$;

revoke execute on function customer_context(text) from public, anon, authenticated;
grant execute on function customer_context(text) to service_role;
