-- What tools write: the state of a customer, appointments that cannot overlap, and what came of each request.
--
-- As before: row level security on, no policy, and only the service role may touch a table or call a function.

-- A number in the form that is unique: Brazilian mobiles have had a ninth digit since 2016, and old records (and WhatsApp)
-- have them without. Null for what is no number: nothing equals it. `shared/phones.py` says the same in Python.
create function phone_key(p_phone text) returns text
language sql immutable parallel safe security invoker set search_path = public as $$
  select case
    when p_phone ~ '^\+55[1-9]{2}[6-9][0-9]{7}$' then left(p_phone, 5) || '9' || substr(p_phone, 6)
    when p_phone ~ '^\+[1-9][0-9]{6,14}$' then p_phone
  end
$$;

-- Who was there in both forms becomes one customer, the older one: a newer fact wins, nothing else is lost.
create temporary table same_customer as
  select id, first_value(id) over (partition by phone_key(phone) order by id) as kept from customers;
delete from same_customer where id = kept;

delete from customer_facts f
using (
  select f.id, row_number() over (partition by coalesce(s.kept, f.customer_id), f.key order by f.updated_at desc, f.id desc) as nth
  from customer_facts f left join same_customer s on s.id = f.customer_id
) ranked
where ranked.id = f.id and ranked.nth > 1;
update customer_facts f set customer_id = s.kept from same_customer s where s.id = f.customer_id;
update appointments a set customer_id = s.kept from same_customer s where s.id = a.customer_id;
update customers c set name = other.name
  from same_customer s join customers other on other.id = s.id
  where c.id = s.kept and c.name is null;
delete from customers c using same_customer s where s.id = c.id;
drop table same_customer;

create unique index customers_by_number on customers (phone_key(phone));

alter table customers
  add column status text not null default 'active',
  add column request_key text,
  add constraint customers_status_check check (status in ('active', 'lead', 'vip', 'inactive', 'blocked'));

alter table customer_facts add column request_key text;

-- `request_key`: the request that made the row; `changed_by`: the last one that changed it.
alter table appointments
  add column calendar text not null default 'main',
  add column request_key text unique,
  add column changed_by text,
  add column created_at timestamptz not null default now(),
  add column updated_at timestamptz not null default now();

update appointments set ends_at = starts_at + interval '30 minutes' where ends_at is null or ends_at <= starts_at;

do $$
declare
  overlapping text;
begin
  select string_agg(a.id || ' and ' || b.id, ', ' order by a.id, b.id) into overlapping
  from appointments a join appointments b
    on a.id < b.id and a.calendar = b.calendar and a.starts_at < b.ends_at and b.starts_at < a.ends_at
  where a.status = 'booked' and b.status = 'booked';
  if overlapping is not null then
    raise exception 'appointments overlap: % (move one of each, or give it another status, and apply this migration again)', overlapping;
  end if;
end
$$;

-- A calendar is text, and `btree_gist`, which would compare it in this constraint, is not everywhere: a range of one value
-- overlaps another exactly when they are equal.
create type textrange as range (subtype = text);

alter table appointments
  alter column ends_at set not null,
  add constraint appointments_times_check check (ends_at > starts_at),
  add constraint appointments_do_not_overlap
    exclude using gist (textrange(calendar, calendar, '[]') with &&, tstzrange(starts_at, ends_at) with &&)
    where (status = 'booked');

-- What came of a request of the model, by its key (call and tool call): asked again, it is answered from here.
create table tool_requests (
  function text not null,
  key text not null check (key <> ''),
  phone text,
  outcome jsonb,
  created_at timestamptz not null default now(),
  primary key (function, key)
);

create index tool_requests_by_phone on tool_requests (phone);

alter table tool_requests enable row level security;

revoke all on customers, customer_facts, appointments, tool_requests from public, anon, authenticated;
grant select, insert, update, delete on customers, customer_facts, appointments, tool_requests to service_role;

revoke execute on function
  phone_key(text), textrange(text, text), textrange(text, text, text),
  textmultirange(), textmultirange(textrange), textmultirange(variadic textrange[])
  from public, anon, authenticated;
grant execute on function
  phone_key(text), textrange(text, text), textrange(text, text, text),
  textmultirange(), textmultirange(textrange), textmultirange(variadic textrange[])
  to service_role;
